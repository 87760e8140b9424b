"""What variants cost: parameters, operations, latency, throughput and memory, measured side by side.

Latency and throughput are measured in rounds. In each round every variant has one turn, in an order drawn anew, so
other load of the machine is shared by all of them; what is compared is the ratio to the first variant within a round.
A turn of latency is one warm-up pass, which is not counted (the caches hold the weights of the variant before), and
PASSES timed ones; a turn of throughput is one batch. Models are fused, in evaluation mode, float32; non-maximum
suppression, which depends on the image, is not included.

Memory is the peak, weights included: in inference with one image, in training for one step with a batch (SGD with
momentum, the mean of the raw maps as the loss). On CUDA it is what torch's allocator held, with mixed precision in
training as in train.py. Elsewhere it is the bytes of all tensors, which utils/profile/memory.py counts without
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

from models.graph.flops import flops, input_shape, thop_gflops
from models.registry import BLOCK_ERRORS
from models.yolo import Model
from utils.checkpoint import build_model, find_weights, read_checkpoint
from utils.compare.results import Cost
from utils.device import synchronize
from utils.log import LOGGER, progress
from utils.profile.components import for_inference
from utils.profile.memory import inference_peak, train_step, training_peak
from utils.profile.timing import random_images

BATCH = 16
ROUNDS, MIN_ROUNDS = 50, 3
PASSES = 3
MIB = 2**20
YAMLS = (".yaml", ".yml")
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
    """Return what each variant costs. The models are left as they are.

    A figure that cannot be measured is None, and a note says why; training time is added by `with_training_time`.

    Args:
        models: By name a trained model, a function that builds one, a model yaml or a checkpoint (.pt). Ratios are
            to the first.
        imgsz: Side of the square images in pixels; raised to a multiple of all strides.
        device: Where to measure.
        generator: Draws the order of each round.
        rounds: At most so many rounds of latency, and as many of throughput.
        batch: Images of a batch, for throughput and the training step.
        seconds: Time per variant for latency, and again for throughput; MIN_ROUNDS are run whatever they take.

    Returns:
        The costs by name, in the order of `models`.
    """
    notes: Notes = {name: [] for name in models}
    built = {name: _build(source) for name, source in models.items()}
    stride = max((int(max(getattr(model, "stride", [1]))) for model in built.values()), default=1)
    imgsz = -(-imgsz // stride) * stride
    costs: dict[str, Cost] = {}
    fused: dict[str, nn.Module] = {}
    with progress(None, total=len(models), description="cost: counting") as bar:
        for name, model in built.items():
            fused[name] = (
                for_inference(model, open_gates=not _is_trained(models[name])).to(device).requires_grad_(False)
            )
            costs[name] = _count(model, fused[name], imgsz, device, batch, notes[name])
            bar.update()
    generator = generator or np.random.default_rng(0)
    latency = _time_rounds(fused, imgsz, device, 1, rounds, seconds, generator, notes)
    throughput = _time_rounds(fused, imgsz, device, batch, rounds, seconds, generator, notes)
    for name, cost in costs.items():
        passes = [1000 * each for turn in latency.get(name, ()) for each in turn]
        batches = [turn[0] for turn in throughput.get(name, ())]
        costs[name] = dataclasses.replace(
            cost,
            latency_ms=median(passes) if passes else None,
            latency_p95_ms=float(np.percentile(passes, 95)) if passes else None,
            throughput=batch / median(batches) if batches else None,
            notes=tuple(notes[name]),
        )
    return _with_ratios(costs, latency, throughput)


def with_training_time(cost: Cost, seconds: float | None) -> Cost:
    """Return a cost with its training time.

    Args:
        cost: The cost.
        seconds: Mean duration of the trainings, None if there was none.

    Returns:
        The cost with `training_seconds`, or with a note that nothing was trained.
    """
    notes = cost.notes if seconds is not None else (*cost.notes, "training time: nothing was trained")
    return dataclasses.replace(cost, training_seconds=seconds, notes=notes)


# ---- counting ----


def _is_trained(source: Source) -> bool:
    """Return whether the gates had the chance to open."""
    return isinstance(source, nn.Module) or isinstance(source, (str, Path)) and Path(source).suffix not in YAMLS


def _build(source: Source) -> nn.Module:
    if isinstance(source, nn.Module):
        return source
    if not isinstance(source, (str, Path)):
        return source()
    return build_model(read_checkpoint(find_weights(source))) if _is_trained(source) else Model(source)


def _count(model: nn.Module, fused: nn.Module, imgsz: int, device: torch.device, batch: int, notes: list[str]) -> Cost:
    """Return the figures that need no timing."""
    on_cuda = device.type == "cuda"
    operations = _or_note(notes, "operations", lambda: flops(model, imgsz))
    by_thop = _or_note(notes, "operations by thop", lambda: thop_gflops(model, imgsz))
    inference = _or_note(
        notes,
        "memory of inference",
        lambda: (_cuda_inference_peak(fused, imgsz, device) if on_cuda else inference_peak(fused, imgsz)) / MIB,
    )
    training = _or_note(
        notes,
        f"memory of training with a batch of {batch}",
        lambda: (
            (_cuda_training_peak(model, imgsz, device, batch) if on_cuda else training_peak(model, imgsz, batch)) / MIB
        ),
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(
        parameters,
        None if operations is None else operations / 1e9,
        by_thop,
        inference_mib=inference,
        training_mib=training,
        imgsz=imgsz,
        device=_device_text(device),
    )


def _or_note(notes: list[str], what: str, measure: Callable[[], Result]) -> Result | None:
    """Return the result of `measure`; if a block fails or memory is short, return None and add a note."""
    try:
        return measure()
    except BLOCK_ERRORS as error:
        notes.append(f"{what}: {' '.join(str(error).split())[:200] or type(error).__name__}")
        return None


def _device_text(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def _cuda_inference_peak(model: nn.Module, imgsz: int, device: torch.device) -> int:
    def run(model: nn.Module) -> None:
        with torch.inference_mode():
            model.eval()(random_images(model, imgsz, device))

    return _allocated_peak(model, device, run)


def _cuda_training_peak(model: nn.Module, imgsz: int, device: torch.device, batch: int) -> int:
    def run(model: nn.Module) -> None:
        train_step(model.train().requires_grad_(), random_images(model, imgsz, device, batch), amp=True)

    return _allocated_peak(model, device, run)


def _allocated_peak(model: nn.Module, device: torch.device, run: Callable[[nn.Module], None]) -> int:
    """Return the bytes that torch's allocator held at the peak of `run` on a copy of the model, minus those before."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run(copy.deepcopy(model).to(device))
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


# ---- timing ----


def _time_rounds(
    models: Mapping[str, nn.Module],
    imgsz: int,
    device: torch.device,
    batch: int,
    rounds: int,
    seconds: float,
    generator: np.random.Generator,
    notes: Notes,
) -> Rounds:
    """Return the seconds of each variant's passes by round; a variant that cannot run is left out, with a note."""
    passes = PASSES if batch == 1 else 1
    turns = {}
    images: dict[tuple[int, ...], Tensor] = {}  # by shape; variants share them
    for name, model in models.items():
        shape = input_shape(model, imgsz, batch)
        images.setdefault(shape, random_images(model, imgsz, device, batch))
        turn = partial(time_passes, model, images[shape], passes)
        if _or_note(notes[name], f"time of a batch of {batch}", turn) is not None:  # the first turn is a warm-up
            turns[name] = turn
    return run_interleaved(turns, rounds, seconds, generator, f"cost: batch {batch}")


def time_passes(model: nn.Module, images: Tensor, passes: int) -> list[float]:
    """Return the seconds of each of several passes; if there are several, one more is run first and not counted.

    Args:
        model: The network.
        images: Its input.
        passes: How many passes are timed.

    Returns:
        Seconds.
    """
    times = []
    with torch.inference_mode():
        for _ in range(passes + (passes > 1)):
            synchronize(images.device)
            start = time.perf_counter()
            model(images)
            synchronize(images.device)
            times.append(time.perf_counter() - start)
    return times[-passes:]


def run_interleaved(
    turns: Mapping[str, Callable[[], list[float]]],
    rounds: int,
    seconds: float,
    generator: np.random.Generator,
    description: str = "",
) -> Rounds:
    """Run each of `turns` once per round, in an order drawn anew.

    Args:
        turns: By name a function that returns seconds.
        rounds: At most so many rounds.
        seconds: Per name: when they have passed, no round begins after MIN_ROUNDS.
        generator: Draws the order of each round.
        description: Text of the progress bar.

    Returns:
        By name what its function returned, one list per round; all names have equally many.
    """
    names = list(turns)
    taken: Rounds = {name: [] for name in names}
    end = time.perf_counter() + seconds * len(names)
    with progress(None, total=rounds * len(names), description=description) as bar:
        for done in range(rounds if names else 0):
            if done >= MIN_ROUNDS and time.perf_counter() > end:
                LOGGER.info(f"{description}: {done} of {rounds} rounds in the time allowed")
                break
            for index in generator.permutation(len(names)):
                taken[names[index]].append(turns[names[index]]())
                bar.update()
    return taken


def _with_ratios(costs: dict[str, Cost], latency: Rounds, throughput: Rounds) -> dict[str, Cost]:
    """Return the costs with ratios to the first variant; those of times are medians of the ratios within rounds."""
    first = next(iter(costs), "")
    speeds = {name: 1 / ratio for name, ratio in paired_ratios(throughput, first).items()}
    paired = {"latency_ms": paired_ratios(latency, first), "throughput": speeds}
    result = {}
    for name, cost in costs.items():
        base = costs[first].figures()
        ratios = {key: _ratio(value, base[key]) for key, value in cost.figures().items()}
        ratios |= {key: table[name] for key, table in paired.items() if name in table}
        known = {key: ratio for key, ratio in ratios.items() if ratio is not None}
        result[name] = dataclasses.replace(cost, ratios=known)
    return result


def _ratio(figure: float | None, base: float | None) -> float | None:
    return figure / base if figure is not None and base else None


def paired_ratios(rounds: Rounds, first: str) -> dict[str, float]:
    """Return the median over rounds of the ratio to the first one's time in the same round.

    Args:
        rounds: Seconds by name.
        first: Name of what the others are compared with.

    Returns:
        Ratios by name, empty if the first has no times.
    """
    if not rounds.get(first):
        return {}
    base = [median(turn) for turn in rounds[first]]
    return {
        name: median(median(turn) / other for turn, other in zip(turns, base, strict=True))
        for name, turns in rounds.items()
    }
