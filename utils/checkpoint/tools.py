"""The commands that write or compare files: convert, strip, average and diff.

Inputs are only read. An output that exists already is refused unless `force`, and is written atomically.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from models.yolo import Model
from utils.calibration import without_confidence
from utils.checkpoint.archive import Archive, StoredTensor, printable
from utils.checkpoint.record import Checkpoint, now
from utils.checkpoint.restricted import read_restricted
from utils.checkpoint.store import (
    build_model,
    is_ours,
    open_archive,
    outline_of,
    read_checkpoint,
    save_plain,
    strip,
    write_checkpoint,
)
from utils.errors import CheckpointError, ModelError
from utils.files import write_atomically


def convert(
    source: Path | str, output: Path | str | None = None, target: str | None = None, force: bool = False
) -> Path:
    """Write an official file as a checkpoint of ours, or any checkpoint or its weights for other programs.

    The precision of the source is kept. An official file is converted only if its model can be built from what was
    read.

    Args:
        source: The checkpoint.
        output: The file to write; for YOLOv5 None stands for a file beside the source.
        target: "checkpoint", "weights" (a plain state dict), "safetensors" or "yolov5" (a checkpoint that YOLOv5 loads,
            or a zip for its tree if YOLOv5 lacks a block); None chooses safetensors for an output of that suffix, else
            checkpoint.
        force: Whether an existing output is replaced.

    Returns:
        The file that was written.

    Raises:
        CheckpointError: If the source cannot be read or is a checkpoint of ours already, its model cannot be built, or
            the output is missing, exists or cannot be written.
    """
    target = target or ("safetensors" if output and Path(output).suffix == ".safetensors" else "checkpoint")
    if target == "yolov5":
        return _convert_for_yolov5(Path(source), output, force)
    if output is None:
        raise CheckpointError(f"{source}: name the file to write, behind the file to read or with --output")
    output = checked_output(output, force)
    if target == "safetensors" and find_spec("safetensors") is None:
        raise CheckpointError(
            f"{output}: the package safetensors is not installed; pip install safetensors, or --to weights"
        )
    if target == "checkpoint":
        with open_archive(source) as archive:
            if is_ours(read_restricted(archive)):
                raise CheckpointError(
                    f"{source}: is a checkpoint of this program already; --to weights or --to safetensors "
                    "writes what other programs read"
                )
    checkpoint = read_checkpoint(source, full=False)
    if target == "weights":
        save_plain(dict(checkpoint.state), output)
    elif target == "safetensors":
        _save_safetensors(checkpoint, output)
    else:
        check_buildable(checkpoint)
        write_checkpoint(replace(checkpoint, settings={"converted_from": Path(source).name}), output)
    return output


def _convert_for_yolov5(source: Path, output: Path | str | None, force: bool) -> Path:
    """Write a checkpoint that YOLOv5 loads, or a zip for its tree if the model has blocks that YOLOv5 lacks."""
    from utils.checkpoint.yolov5_file import write_yolov5_file
    from utils.checkpoint.yolov5_package import write_yolov5_package
    from utils.checkpoint.yolov5_rows import resolve_rows

    given = None if output is None else checked_output(output, force)
    checkpoint = read_checkpoint(source, full=False)
    model = check_buildable(checkpoint)
    resolved = resolve_rows(checkpoint, model)
    suffix = ".zip" if resolved.blocks else ".pt"
    path = given or checked_output(source.with_name(f"{source.stem}_yolov5{suffix}"), force)
    if path.suffix != suffix:
        names = ", ".join(block.__name__ for block in resolved.blocks)
        reason = f"YOLOv5 lacks its {names}" if names else "YOLOv5 has all of its layers"
        raise CheckpointError(f"{path}: {reason}, so what is written is a {suffix}; name an output of that suffix")
    if resolved.blocks:
        return write_yolov5_package(checkpoint, resolved, path)
    return write_yolov5_file(checkpoint, model, resolved.architecture, path)


def check_buildable(checkpoint: Checkpoint) -> Model:
    """Return the model; raise CheckpointError unless it can be built, its weights fit and its strides are as given."""
    try:
        model = build_model(checkpoint)
    except ModelError as error:
        raise CheckpointError(f"{checkpoint.source}: its model cannot be built here: {error}") from None
    strides = tuple(model.stride.tolist())
    if checkpoint.stride and strides != checkpoint.stride:
        raise CheckpointError(
            f"{checkpoint.source}: its strides are {checkpoint.stride}, the model built from its "
            f"description has {strides}"
        )
    return model


def strip_file(source: Path | str, output: Path | str | None, in_place: bool = False, force: bool = False) -> Path:
    """Write a checkpoint without its training state and in half precision.

    Args:
        source: The checkpoint.
        output: The file to write; None if `in_place`.
        in_place: Whether the source itself is replaced.
        force: Whether an existing output is replaced.

    Returns:
        The file that was written.

    Raises:
        CheckpointError: If both or none of `output` and `in_place` are given, the source cannot be read, or the output
            exists or cannot be written.
    """
    if in_place == (output is not None):
        raise CheckpointError(f"{source}: name the file to write, or replace this one with --in-place (one of the two)")
    return strip(source, Path(source).resolve() if output is None else checked_output(output, force))


def average(sources: Sequence[Path | str], output: Path | str, force: bool = False) -> Path:
    """Write the mean of several checkpoints of one model, such as a training's last epochs.

    Sums are in float64. Integer counters, and everything beside the weights, are the last file's. The training state is
    left out.

    Args:
        sources: Two checkpoints or more.
        output: The file to write.
        force: Whether an existing output is replaced.

    Returns:
        `output` as a Path.

    Raises:
        CheckpointError: If files differ in model, classes, tensor names or shapes, weights are not finite, or the
            output exists or cannot be written.
    """
    if len(sources) < 2:
        raise CheckpointError("average: takes two files or more")
    output = checked_output(output, force)
    sums: dict[str, Tensor] = {}
    first: Checkpoint | None = None
    for source in sources:
        last = read_checkpoint(source)
        first = first or replace(
            last, state={name: tensor.to("meta") for name, tensor in last.state.items()}, training=None
        )
        _check_same_model(first, last)
        for name, tensor in last.state.items():
            if not tensor.is_floating_point():
                continue
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{source}: {printable(name)} holds numbers that are not finite")
            sums[name] = sums[name].add_(tensor) if name in sums else tensor.double()
    state = {
        name: sums.pop(name).div_(len(sources)).float() if name in sums else tensor
        for name, tensor in last.state.items()
    }
    settings = {**without_confidence(last.settings), "average_of": [Path(source).name for source in sources]}
    return write_checkpoint(
        replace(
            last, state=state, training=None, settings=settings, date=now(), written_by=f"torch {torch.__version__}"
        ),
        output,
    )


def _check_same_model(first: Checkpoint, other: Checkpoint) -> None:
    """Raise CheckpointError unless two checkpoints are of one model."""
    pair = f"{other.source} and {first.source} cannot be averaged:"
    if other.names != first.names:
        raise CheckpointError(f"{pair} their classes differ")
    if other.yaml != first.yaml:
        keys = [key for key in {**first.yaml, **other.yaml} if first.yaml.get(key) != other.yaml.get(key)]
        raise CheckpointError(f"{pair} their model descriptions differ in {printable(', '.join(map(str, keys)))}")
    if other.state.keys() != first.state.keys():
        name = next(iter(other.state.keys() ^ first.state.keys()))
        raise CheckpointError(f"{pair} only one of them holds {printable(name)}")
    for name, tensor in other.state.items():
        if (
            tensor.shape != first.state[name].shape
            or tensor.is_floating_point() != first.state[name].is_floating_point()
        ):
            raise CheckpointError(
                f"{pair} {printable(name)} is {tuple(tensor.shape)} and {tuple(first.state[name].shape)}"
            )


def checked_output(output: Path | str, force: bool) -> Path:
    """Return the file to write, checked before any work is done.

    Args:
        output: The file.
        force: Whether an existing file may be replaced.

    Returns:
        `output` as a Path.

    Raises:
        CheckpointError: If it exists and may not be replaced, is a folder, or its folder does not exist.
    """
    output = Path(output)
    if output.is_dir() or not output.parent.is_dir():
        raise CheckpointError(
            f"{output}: {'a folder' if output.is_dir() else 'its folder does not exist'}; name a file to write"
        )
    if output.exists() and not force:
        raise CheckpointError(f"{output}: exists already; --force replaces it")
    return output


def _save_safetensors(checkpoint: Checkpoint, output: Path) -> None:
    """Write weights as safetensors, with the model's description as the format's metadata (text)."""
    from safetensors.torch import save

    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in checkpoint.state.items()}
    metadata = {
        "format": "pt",
        "yaml": json.dumps(checkpoint.yaml),
        "names": json.dumps(checkpoint.names),
        "stride": json.dumps(checkpoint.stride),
    }
    try:
        write_atomically(output, lambda stream: stream.write(save(tensors, metadata)))
    except OSError as error:
        raise CheckpointError(f"{output}: cannot be written: {error.strerror}") from None


# ---- two files compared ----


def differences(first: Path | str, second: Path | str, most: int | None = 20) -> list[str]:
    """Return lines that list how two checkpoints differ.

    Tensors are read one by one and listed by their largest absolute difference, the largest first.

    Args:
        first: A checkpoint.
        second: The checkpoint that it is compared with.
        most: Largest number of tensors listed; None lists all.

    Returns:
        The lines; [] if both files hold the same model, weights and settings, and both or none a training state.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    with open_archive(first) as left_file, open_archive(second) as right_file:
        left, right = (outline_of(file, read_restricted(file)) for file in (left_file, right_file))
        lines = _value_differences("model", left.yaml, right.yaml) + _value_differences(
            "names", left.names, right.names
        )
        lines += _value_differences("stride", list(left.stride), list(right.stride))
        lines += _value_differences("settings", left.settings, right.settings)
        if bool(left.training) != bool(right.training):
            lines.append(f"training: only in {first if left.training else second}")
        lines += [
            f"tensor {printable(name)}: only in {path}"
            for here, there, path in ((left, right, first), (right, left, second))
            for name in here.state
            if name not in there.state
        ]
        rows: list[tuple[float, str]] = []
        for name in left.state:
            if name in right.state:
                row = _tensor_difference(
                    printable(name),
                    _read(left_file, left.state[name]),
                    _read(right_file, right.state[name]),
                )
                rows += [row] if row else []
    rows.sort(key=lambda row: -row[0])
    hidden = len(rows) - len(rows[:most])
    equal = len(left.state.keys() & right.state.keys()) - len(rows)
    lines += [line for _, line in rows[:most]] + ([f"... and {hidden} tensors more (--all)"] if hidden else [])
    return lines + [f"{len(rows)} tensors differ, {equal} are equal"] if lines else []


def _read(archive: Archive, tensor: Tensor | StoredTensor) -> Tensor:
    return archive.tensor(tensor, keep=False) if isinstance(tensor, StoredTensor) else tensor


def _tensor_difference(name: str, left: Tensor, right: Tensor) -> tuple[float, str] | None:
    """Return (size of the difference, line about it), or None for equal tensors; NaN equals NaN."""
    if left.shape != right.shape:
        return float("inf"), f"tensor {name}: shape {tuple(left.shape)} and {tuple(right.shape)}"
    dtypes = "" if left.dtype == right.dtype else f" ({_dtype_name(left)} and {_dtype_name(right)})"
    left, right = left.double(), right.double()
    differ = ~((left == right) | (left.isnan() & right.isnan()))
    if not differ.any():
        return (0.0, f"tensor {name}: equal numbers{dtypes}") if dtypes else None
    gap = (left - right)[differ].abs()
    size = float("inf") if gap.isnan().any() else float(gap.max())
    return (
        size,
        f"tensor {name}: max |difference| {size:.3g} in {int(differ.sum())} of {differ.numel()} numbers{dtypes}",
    )


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _value_differences(where: str, left: object, right: object, depth: int = 0) -> list[str]:
    """Return a line for each place where two nested values differ, down to four levels."""
    if left == right:
        return []
    if depth < 4 and isinstance(left, dict) and isinstance(right, dict):
        keys = list({**left, **right})
        return [
            line
            for key in keys
            for line in _value_differences(f"{where}.{printable(str(key))}", left.get(key), right.get(key), depth + 1)
        ]
    if depth < 4 and isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            line
            for index, pair in enumerate(zip(left, right, strict=True))
            for line in _value_differences(f"{where}[{index}]", *pair, depth + 1)
        ]
    if isinstance(left, list) and isinstance(right, list):
        return [f"{where}: {len(left)} entries and {len(right)}"]
    return [f"{where}: {printable(repr(left))} and {printable(repr(right))}"]
