"""What variants cost: parameters, operations, latency, throughput and memory, measured side by side.

Latency and throughput are taken in rounds. In each round every variant has one turn, in an order drawn anew, so
whatever else the machine does falls on all of them; what is compared is the ratio to the first variant within a
round. A turn of latency is one pass that is thrown away (the others' weights lie in the caches) and PASSES timed ones;
a turn of throughput is one batch. Models are fused, in evaluation, float32; suppression of overlapping boxes, which
depends on the picture, is not part of it.

Memory is at its peak, weights included: in inference with one image, in training for one step with a batch (SGD with
momentum, the mean of the raw maps as the loss). On CUDA it is what torch's allocator held, mixed precision in
training as train.py has it. Elsewhere it is the bytes of all tensors, which utils/profile/memory.py counts without
running anything: exact, but without kernels' scratch space.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from models.graph.flops import input_shape
from models.registry import BLOCK_ERRORS
from models.yolo import Model
from utils.checkpoint import build_model, find_weights, read_checkpoint
from utils.compare.results import Cost
from utils.device import synchronize
from utils.log import LOGGER, progress
from utils.profile import flops, for_inference, inference_peak, thop_gflops, training_peak
from utils.profile.memory import step
from utils.profile.timing import noise

BATCH = 16
ROUNDS, LEAST_ROUNDS = 50, 3
PASSES = 3
MIB = 2**20
YAMLS = (".yaml", ".yml")
FIGURES = (
    "parameters",
    "gflops",
    "gflops_thop",
    "latency_ms",
    "latency_p95_ms",
    "throughput",
    "inference_mib",
    "training_mib",
)
Source = nn.Module | Callable[[], nn.Module] | Path | str
Result = TypeVar("Result")
Notes = dict[str, list[str]]
Rounds = dict[str, list[list[float]]]  # name -> seconds of the passes of each round


def measure_costs(
    models: Mapping[str, Source],
    imgsz: int,
    device: torch.device,
    *,
    generator: np.random.Generator | None = None,
    rounds: int = ROUNDS,
    batch: int = BATCH,
    seconds: float = 20.0,
) -> dict[str, Cost]:
    """Return what each variant costs for images of imgsz x imgsz, raised to a multiple of all strides.

    models: name -> a trained model, a function that builds one, a model yaml or a checkpoint (.pt); ratios are to the first.
    rounds: at most, of latency and of throughput each; seconds: a variant's share of time for either, LEAST_ROUNDS being
    run whatever they take; batch: of throughput and of a training step; generator: draws
    the order in each round. The models are left as they are.
    A figure that cannot be had is None, and a note says why; training time is the runs' to tell (`with_training_time`).
    """
    notes: Notes = {name: [] for name in models}
    built = {name: _built(source) for name, source in models.items()}
    stride = max((int(max(getattr(model, "stride", [1]))) for model in built.values()), default=1)
    imgsz = -(-imgsz // stride) * stride
    costs: dict[str, Cost] = {}
    fused: dict[str, nn.Module] = {}
    with progress(None, total=len(models), description="cost: counting") as bar:
        for name, model in built.items():
            fused[name] = (
                for_inference(model, open_gates=not _is_trained(models[name])).to(device).requires_grad_(False)
            )
            costs[name] = _counted(model, fused[name], imgsz, device, batch, notes[name])
            bar.update()
    generator = generator or np.random.default_rng(0)
    latency = _rounds(fused, imgsz, device, 1, rounds, seconds, generator, notes)
    throughput = _rounds(fused, imgsz, device, batch, rounds, seconds, generator, notes)
    for name, cost in costs.items():
        timed = _timed(latency.get(name), throughput.get(name), batch)
        costs[name] = dataclasses.replace(cost, **timed, notes=tuple(notes[name]))
    return _with_ratios(costs, latency, throughput)


def with_training_time(cost: Cost, seconds: float | None) -> Cost:
    """Return `cost` with the mean seconds of a training, or with a note that there was none."""
    notes = cost.notes if seconds is not None else (*cost.notes, "training time: nothing was trained")
    return dataclasses.replace(cost, training_seconds=seconds, notes=notes)


# ---- counting ----


def _is_trained(source: Source) -> bool:
    """Whether gates that are zero have had their chance to open."""
    return isinstance(source, nn.Module) or isinstance(source, (str, Path)) and Path(source).suffix not in YAMLS


def _built(source: Source) -> nn.Module:
    if isinstance(source, nn.Module):
        return source
    if not isinstance(source, (str, Path)):
        return source()
    return build_model(read_checkpoint(find_weights(source))) if _is_trained(source) else Model(source)


def _counted(
    model: nn.Module, fused: nn.Module, imgsz: int, device: torch.device, batch: int, notes: list[str]
) -> Cost:
    """Return what needs no clock."""
    on_cuda = device.type == "cuda"
    operations = _or_note(notes, "operations", lambda: flops(model, imgsz))
    by_thop = _or_note(notes, "operations by thop", lambda: thop_gflops(model, imgsz))
    inference = _or_note(
        notes,
        "memory of inference",
        lambda: (_cuda_inference(fused, imgsz, device) if on_cuda else inference_peak(fused, imgsz)) / MIB,
    )
    training = _or_note(
        notes,
        f"memory of training with a batch of {batch}",
        lambda: (_cuda_training(model, imgsz, device, batch) if on_cuda else training_peak(model, imgsz, batch)) / MIB,
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(
        parameters,
        None if operations is None else operations / 1e9,
        by_thop,
        inference_mib=inference,
        training_mib=training,
        imgsz=imgsz,
        device=_described(device),
    )


def _or_note(notes: list[str], what: str, measure: Callable[[], Result]) -> Result | None:
    """Return what `measure` returns, or None with a note on what it raises: too little memory, a block that cannot."""
    try:
        return measure()
    except BLOCK_ERRORS as error:
        notes.append(f"{what}: {' '.join(str(error).split())[:200] or type(error).__name__}")
        return None


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def _cuda_inference(model: nn.Module, imgsz: int, device: torch.device) -> int:
    def run(model: nn.Module) -> None:
        with torch.inference_mode():
            model.eval()(noise(model, imgsz, device))

    return _allocated(model, device, run)


def _cuda_training(model: nn.Module, imgsz: int, device: torch.device, batch: int) -> int:
    def run(model: nn.Module) -> None:
        step(model.train().requires_grad_(), noise(model, imgsz, device, batch), amp=True)

    return _allocated(model, device, run)


def _allocated(model: nn.Module, device: torch.device, run: Callable[[nn.Module], None]) -> int:
    """Return the bytes that torch's allocator held at the peak of `run` on a copy of the model, beyond what it held before."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run(copy.deepcopy(model).to(device))
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


# ---- timing ----


def _rounds(
    models: Mapping[str, nn.Module],
    imgsz: int,
    device: torch.device,
    batch: int,
    rounds: int,
    seconds: float,
    generator: np.random.Generator,
    notes: Notes,
) -> Rounds:
    """Return the seconds of each variant's passes of a batch, by round; those that cannot run it are left out, with a note."""
    passes = PASSES if batch == 1 else 1
    turns = {}
    images: dict[tuple[int, ...], Tensor] = {}  # variants share them
    for name, model in models.items():
        shape = input_shape(model, imgsz, batch)
        images.setdefault(shape, noise(model, imgsz, device, batch))
        turn = partial(_turn, model, images[shape], passes)
        if _or_note(notes[name], f"time of a batch of {batch}", turn) is not None:  # the first turn is to warm up
            turns[name] = turn
    return interleaved(turns, rounds, seconds, generator, f"cost: batch {batch}")


def _turn(model: nn.Module, images: Tensor, passes: int) -> list[float]:
    """Return the seconds of `passes` passes; where there are several, after one that is not counted."""
    times = []
    with torch.inference_mode():
        for _ in range(passes + (passes > 1)):
            synchronize(images.device)
            start = time.perf_counter()
            model(images)
            synchronize(images.device)
            times.append(time.perf_counter() - start)
    return times[-passes:]


def interleaved(
    turns: Mapping[str, Callable[[], list[float]]],
    rounds: int,
    seconds: float,
    generator: np.random.Generator,
    description: str = "",
) -> Rounds:
    """Give each of `turns` one go a round, in an order drawn anew, and return what they return, a list a round.

    Rounds end when `rounds` are done or, after LEAST_ROUNDS, when `seconds` a name have passed; all names have equally many.
    """
    names, taken = list(turns), {name: [] for name in turns}
    end = time.perf_counter() + seconds * len(names)
    with progress(None, total=rounds * len(names), description=description) as bar:
        for done in range(rounds if names else 0):
            if done >= LEAST_ROUNDS and time.perf_counter() > end:
                LOGGER.info(f"{description}: {done} of {rounds} rounds in the time allowed")
                break
            for place in generator.permutation(len(names)):
                taken[names[place]].append(turns[names[place]]())
                bar.update()
    return taken


def _timed(
    latency: list[list[float]] | None, throughput: list[list[float]] | None, batch: int
) -> dict[str, float | None]:
    """Return the figures of one variant from its rounds."""
    passes = [1000 * each for turn in latency or () for each in turn]
    return {
        "latency_ms": median(passes) if passes else None,
        "latency_p95_ms": float(np.percentile(passes, 95)) if passes else None,
        "throughput": batch / median(turn[0] for turn in throughput) if throughput else None,
    }


def _with_ratios(costs: dict[str, Cost], latency: Rounds, throughput: Rounds) -> dict[str, Cost]:
    """Return the costs with each figure as a ratio to the first variant's: of times, the median of the ratios within rounds."""
    first = next(iter(costs), "")
    speeds = {name: 1 / ratio for name, ratio in _paired(throughput, first).items()}
    paired = {"latency_ms": _paired(latency, first), "throughput": speeds}
    result = {}
    for name, cost in costs.items():
        ratios = {figure: _ratio(getattr(cost, figure), getattr(costs[first], figure)) for figure in FIGURES}
        ratios |= {figure: table[name] for figure, table in paired.items() if name in table}
        result[name] = dataclasses.replace(
            cost, ratios={figure: ratio for figure, ratio in ratios.items() if ratio is not None}
        )
    return result


def _ratio(figure: float | None, base: float | None) -> float | None:
    return figure / base if figure is not None and base else None


def _paired(rounds: Rounds, first: str) -> dict[str, float]:
    if not rounds.get(first):
        return {}
    base = [median(turn) for turn in rounds[first]]
    return {name: median(median(turn) / other for turn, other in zip(turns, base)) for name, turns in rounds.items()}
