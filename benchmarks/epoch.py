"""An epoch of training against the model's own forward, backward and optimizer steps on the same batches.

    python benchmarks/epoch.py --data bccd.yaml --cfg models/yolov5n.yaml --imgsz 320 --batch-size 16 --workers 2

Prints seconds of both and their ratio, alternating, so that a noisy machine does not favour one. The steps alone
accumulate as after warm-up, and neither clip nor average."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.config import DatasetSpec, Hyperparameters, TrainConfig, parse  # noqa: E402
from utils.device import (
    network_input,  # noqa: E402
    select_device,  # noqa: E402
)
from utils.engine.build import build_components, build_data, build_detector, optimizer_for, prepare_process  # noqa: E402
from utils.engine.trainer import Trainer  # noqa: E402
from utils.types import TrainState  # noqa: E402

ROUNDS = 3


def main() -> None:
    """Time ROUNDS epochs each way."""
    config = parse(TrainConfig)
    prepare_process(config)
    hyp, spec, device = Hyperparameters.load(config.hyp), DatasetSpec.load(config.data), select_device(config.device)
    model, _ = build_detector(config, hyp, spec, None, device)
    data = build_data(config, hyp, spec, model, Path(tempfile.mkdtemp()))
    parts = build_components(config, hyp, model, optimizer_for(model, config, hyp), data, None)
    trainer = Trainer(parts, TrainState(), ROUNDS + 1)
    trainer.train_epoch(0)  # starts the workers and warms the kernels
    batches = list(data.train.epoch(1))
    whole, bare = [], []
    for _ in range(ROUNDS):
        whole.append(_seconds(lambda: trainer.train_epoch(1)))
        bare.append(_seconds(lambda: _bare_epoch(parts, batches)))
    fastest_whole, fastest_bare = min(whole), min(bare)
    print(
        f"epoch {statistics.median(whole):.2f} s, its model steps alone {statistics.median(bare):.2f} s, "
        f"ratio of the fastest {fastest_whole / fastest_bare:.3f}"
    )
    data.train.close()


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _bare_epoch(parts, batches) -> None:
    """Forward, loss, backward and a step every `accumulate` batches; no loading, no average, no figures."""
    accumulate = parts.step_settings(10**6).accumulate
    for number, batch in enumerate(batches):
        loss, _ = parts.loss(parts.model(network_input(batch.images, parts.device)), batch.targets)
        loss.backward()
        if (number + 1) % accumulate == 0:
            parts.optimizer.step()
            parts.optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
