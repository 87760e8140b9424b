"""Compare the time of a training epoch with that of its model steps alone: forward, backward and optimizer.

    python benchmarks/epoch.py --data bccd.yaml --cfg models/yolov5n.yaml --imgsz 320 --batch-size 16 --workers 2

Prints the seconds of both and their ratio. Both use the same batches and alternate, so that a noisy machine does not
favor one. The model steps alone accumulate gradients as after warm-up. They neither clip gradients nor update the EMA.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.config import DatasetSpec, Hyperparameters, TrainConfig, parse  # noqa: E402
from utils.device import network_input, select_device  # noqa: E402
from utils.engine.build import build_components, build_data, build_detector, optimizer_for, prepare_process  # noqa: E402
from utils.engine.trainer import Trainer  # noqa: E402
from utils.types import TrainState  # noqa: E402

ROUNDS = 3


def main() -> None:
    """Time ROUNDS epochs of each kind and print the result."""
    config = parse(TrainConfig)
    prepare_process(config)
    hyp, spec, device = Hyperparameters.load(config.hyp), DatasetSpec.load(config.data), select_device(config.device)
    model, _ = build_detector(config, hyp, spec, None, device)
    data = build_data(config, hyp, spec, model, Path(tempfile.mkdtemp()))
    components = build_components(config, hyp, model, optimizer_for(model, config, hyp), data, None)
    trainer = Trainer(components, TrainState(), ROUNDS + 1)
    trainer.train_epoch(0)  # starts the workers and warms up the kernels
    batches = list(data.train.epoch(1))
    whole, bare = [], []
    for _ in range(ROUNDS):
        whole.append(_seconds(lambda: trainer.train_epoch(1)))
        bare.append(_seconds(lambda: _bare_epoch(components, batches)))
    fastest_whole, fastest_bare = min(whole), min(bare)
    print(
        f"epoch {statistics.median(whole):.2f} s, its model steps alone {statistics.median(bare):.2f} s, "
        f"ratio of the fastest {fastest_whole / fastest_bare:.3f}"
    )
    data.train.close()


def _seconds(work) -> float:
    """Return the seconds that `work()` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _bare_epoch(components, batches) -> None:
    """Run forward, loss and backward, and a step every `accumulate` batches; no data loading, EMA or metrics."""
    accumulate = components.step_settings(10**6).accumulate
    for index, batch in enumerate(batches):
        predictions = components.model(network_input(batch.images, components.device))
        loss, _ = components.loss(predictions, batch.targets)
        loss.backward()
        if (index + 1) % accumulate == 0:
            components.optimizer.step()
            components.optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
