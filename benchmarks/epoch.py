"""Compare the time of a training epoch with that of its model steps alone: forward, backward and optimizer.

    python benchmarks/epoch.py --data bccd.yaml --cfg models/yolov5n.yaml --imgsz 320 --batch-size 16 --workers 2

Prints the ratio of both, and that of an epoch whose batches are there already, which shows what the trainer adds and
what loading adds. All use the same batches and take turns, so that a noisy machine does not favor one; a round's ratio
is of its own times. The model steps alone accumulate gradients as after warm-up, where the epochs stand too. They
neither clip gradients nor update the EMA.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.config import DatasetSpec, Hyperparameters, TrainConfig, parse  # noqa: E402
from utils.device import network_input, select_device  # noqa: E402
from utils.engine.build import build_components, build_data, build_detector, prepare_process  # noqa: E402
from utils.engine.optimizer_choice import optimizer_for  # noqa: E402
from utils.engine.trainer import Trainer  # noqa: E402
from utils.threads import yielding_threads  # noqa: E402
from utils.types import Batch, TrainState  # noqa: E402

ROUNDS = 3


def main() -> None:
    """Time ROUNDS epochs of each kind and print the result."""
    config = parse(TrainConfig)
    prepare_process(config)
    hyp, spec, device = Hyperparameters.load(config.hyp), DatasetSpec.load(config.data), select_device(config.device)
    model, _ = build_detector(config, hyp, spec, None, device)
    data = build_data(config, hyp, spec, model, Path(tempfile.mkdtemp()))
    components = build_components(config, hyp, model, optimizer_for(model, config, hyp), data, None)
    past_warmup = len(data.train) * config.epochs // 2
    trainer = Trainer(components, TrainState(step=past_warmup), ROUNDS + 1)
    _epoch(trainer)  # starts the workers and warms up the kernels
    batches = list(data.train.epoch(1))
    in_memory = Trainer(replace(components, loader=_Batches(batches)), TrainState(step=past_warmup), ROUNDS + 1)
    ratios, steps = [], []
    for _ in range(ROUNDS):
        bare = _seconds(lambda: _bare_epoch(components, batches))
        ratios.append((_seconds(lambda: _epoch(trainer)) / bare, _seconds(lambda: _epoch(in_memory)) / bare))
        steps.append(bare)
    whole, loaded = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(
        f"model steps alone {statistics.median(steps):.2f} s; epoch {whole:.3f} x that, "
        f"with its batches in memory {loaded:.3f} x; by round: {', '.join(f'{each:.3f}' for each, _ in ratios)}"
    )
    data.train.close()


class _Batches:
    """A loader of batches that are in memory."""

    def __init__(self, batches: list[Batch]):
        self.batches = batches

    def epoch(self, epoch: int, batches: Sequence[int] | None = None) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _epoch(trainer: Trainer) -> None:
    """Train a whole epoch, whatever was trained before."""
    trainer.train_epoch(1)
    trainer.state.batches_done, trainer.state.mean_losses = 0, [0.0, 0.0, 0.0]


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
    with yielding_threads():  # as the scripts do
        main()
