"""`parse_model` builds the layers of a yaml; `Model` runs them: forward, test-time augmentation, fuse, summary.

python models/yolo.py --cfg yolov5s.yaml            build it and show its layers
python models/yolo.py --cfg yolov5s.yaml --profile  and the time of each
python models/yolo.py --test                        build every yaml of models/
"""

if __name__ == "__main__" and not __package__:  # run as a file: imports start at the project's folder
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import aliases
from models.graph.architecture import IMAGE_SOURCE, as_list, check_sources, find_yaml
from models.graph.construction import NetworkLayer, build_layer, checked_map
from models.graph.row_report import read_block_row
from models.graph.spec import LayerRow, ModelSpec, read_spec
from models.head import Detect, HeadOutput
from models.registry import BLOCK_ERRORS, Entry, find, registered
from utils.errors import CHOICES_LIMIT, ModelError, UserError, cut
from utils.log import LOGGER, configure
from utils.types import HeadGeometry

PROBE_SIZE = 128  # side in pixels of the image of zeros that the layers are tried on
NORM_EPS, NORM_MOMENTUM = 1e-3, 0.03
AUGMENTED_VIEWS = ((1.0, False), (0.83, True), (0.67, False))  # scale and left-right flip of each test-time view
GRAY = 0.447  # ImageNet's mean, the padding of a scaled view


def __getattr__(name: str) -> Any:
    """Return a name of YOLOv5's module of this name, which utils/compat has."""
    from importlib import import_module

    return import_module("utils.compat.names").resolve(__name__, name)


def parse_model(spec: ModelSpec, report: bool = True) -> tuple[nn.Sequential, list[int]]:
    """Return a yaml's layers and the indices of those whose output a later layer reads.

    Each layer is run on the outputs of its sources as soon as it is built, so a mistake ends in an error that names
    it. Batch-norm statistics stay as they are.

    Args:
        spec: The yaml's settings and rows.
        report: Log what the numbers of attention rows and names from elsewhere became.

    Returns:
        The layers, and the sorted indices.

    Raises:
        ModelError: If a layer cannot be built or run; names file, line, layer, sources and their shapes.
    """
    built: list[nn.Module] = []
    outputs: list[Tensor] = []
    described: list[str] = []  # "C3 (1, 64, 16, 16)": each layer as messages name it
    save: list[int] = []
    image = torch.zeros(1, spec.ch, PROBE_SIZE, PROBE_SIZE)
    for row in spec.rows:
        with _located_errors(row, image, described):
            check_sources(row.source, described)
            inputs = _select_inputs(row, image, outputs)
            entry = find(row.block)
            is_head = entry.wiring_name == "detection"
            _check_head(spec, row, is_head)
            layer, planned = build_layer(entry, row, spec, [source.shape[1] for source in inputs])
            if is_head:
                cast("Detect", layer).set_strides(_measure_strides(spec, row, built, inputs))
            else:
                outputs.append(_run_checked(layer, row, inputs, planned))
                if report:
                    _log_arguments(row, entry, spec, inputs)
                described.append(f"{entry.cls.__name__} {tuple(outputs[-1].shape)}")
        for note in aliases.notes(row.block, row.args, registered()) if report else ():
            LOGGER.info(f"{row.where}: {note}")
        _set_attributes(layer, row, spec)
        built.append(layer)
        save += [source for given, source in zip(as_list(row.source), row.sources, strict=True) if given != -1]
    return nn.Sequential(*built), sorted(save)


def _log_arguments(row: LayerRow, entry: Entry, spec: ModelSpec, inputs: Sequence[Tensor]) -> None:
    """Log what each number of an attention row became, and warn of those that are implausible."""
    block = read_block_row(row, entry, spec, [source.shape[1] for source in inputs])
    if block is not None:
        LOGGER.info(block.describe())
        for _, problem in block.implausible():
            LOGGER.warning(f"{row.where}: {problem}")


def _select_inputs(row: LayerRow, image: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    return [image if source == IMAGE_SOURCE else outputs[source] for source in row.sources]


@contextlib.contextmanager
def _located_errors(row: LayerRow, image: Tensor, described: Sequence[str]) -> Iterator[None]:
    """Turn an error raised inside into a ModelError of one line that names the row and its sources."""
    try:
        yield
    except (*BLOCK_ERRORS, ModelError) as error:
        reason = cut(" ".join(str(error).split()), CHOICES_LIMIT) or type(error).__name__
        sources = [
            f"the image {tuple(image.shape)}" if source == IMAGE_SOURCE else f"layer {source} {described[source]}"
            for source in row.sources
            if (IMAGE_SOURCE if row.index == 0 else 0) <= source < len(described)
        ]
        reads = f" [it reads {cut(', '.join(sources))}]" if sources else ""
        raise ModelError(f"{row.where}: {reason}{reads}") from error


def _check_head(spec: ModelSpec, row: LayerRow, is_head: bool) -> None:
    is_last = row is spec.rows[-1]
    if is_head and not is_last:
        raise ValueError("a detection head must be the last row")
    if is_last and not is_head:
        raise ValueError("the last row must be a detection head, such as [[17, 20, 23], 1, Detect, [nc, anchors]]")


@torch.no_grad()
def _run(layer: nn.Module, row: LayerRow, inputs: list[Tensor]) -> Any:
    """Run a layer in evaluation mode, which keeps batch-norm statistics and takes a batch of one."""
    training = layer.training
    try:
        output = layer.eval()(inputs if isinstance(row.source, list) else inputs[0])
    except BLOCK_ERRORS as error:
        raise ValueError(f"fails on what it reads: {error}") from error
    layer.train(training)
    return output


def _run_checked(layer: nn.Module, row: LayerRow, inputs: list[Tensor], planned: int) -> Tensor:
    """Return a layer's output on its sources. Raises ValueError if it is not a map of the planned channels."""
    sizes = {tuple(source.shape[2:]) for source in inputs}
    if len(sizes) > 1:
        raise ValueError(
            "its sources differ in height and width; scale one (nn.Upsample, or a stride of 2) or read another layer"
        )
    return checked_map(_run(layer, row, inputs), row, planned)


def _measure_strides(spec: ModelSpec, row: LayerRow, built: Sequence[nn.Module], inputs: list[Tensor]) -> list[float]:
    """Return the strides of the head's sources; a larger image is tried if a map is one cell wide or high."""
    side = PROBE_SIZE
    while min(min(source.shape[2:]) for source in inputs) < 2 and side < 8 * PROBE_SIZE:
        side *= 2
        outputs: list[Tensor] = []
        image = torch.zeros(1, spec.ch, side, side)
        for earlier, layer in zip(spec.rows[: row.index], built, strict=True):
            outputs.append(_run(layer, earlier, _select_inputs(earlier, image, outputs)))
        inputs = _select_inputs(row, image, outputs)
    return [side / source.shape[2] for source in inputs]


def _set_attributes(layer: nn.Module, row: LayerRow, spec: ModelSpec) -> None:
    """Set the attributes of a `NetworkLayer` that `build_layer` leaves to be set."""
    named = cast("NetworkLayer", layer)
    named.i, named.f = row.index, row.source
    named.np = sum(parameter.numel() for parameter in layer.parameters())
    named.repeats = spec.scale.repeats(row.repeats)


class Model(nn.Module):
    """A YOLOv5 detector built from a yaml.

    Args:
        cfg: Path or content of a model yaml.
        ch: Channels of an image, unless the yaml has a key `ch`.
        nc: Number of classes, replaces the yaml's if given.
        anchors: Rows of [w, h, w, h, ...] in pixels, or a number of anchors per level that are fitted later; replaces
            the yaml's if given.
        attention_start: "identity" puts a zero-initialized gate around each inserted attention block, "plain" leaves
            it as published, None follows the yaml.
        report: Log what the numbers of attention rows became; off if a checkpoint is loaded, which said so in training.

    Attributes:
        model: The layers; the last of them is `head`.
        save: Indices of the layers whose output a later layer reads.
        names: Names of the classes.
        yaml: The content that the model was built from; `Model(model.yaml)` builds the same again.
        yaml_file: Name of the yaml.
        confidence: The calibrated confidence of the weights, None if there is none.

    Example:
        >>> model = Model("yolov5n.yaml", nc=3).eval()
        >>> decoded, raw = model(torch.zeros(1, 3, 64, 64))
        >>> tuple(decoded.shape), model.stride.tolist()
        ((1, 252, 8), [8.0, 16.0, 32.0])
    """

    model: nn.Sequential
    save: list[int]
    names: list[str]
    yaml: dict[str, Any]
    yaml_file: str
    confidence: float | None = None

    def __init__(
        self,
        cfg: Path | str | Mapping = "yolov5s.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: int | float | list | None = None,
        attention_start: str | None = None,
        report: bool = True,
    ):
        super().__init__()
        spec = read_spec(cfg, ch, nc, anchors, attention_start)
        self.yaml = spec.yaml
        self.yaml_file = Path(spec.file).name
        self.model, self.save = parse_model(spec, report)
        self.names = [str(class_id) for class_id in range(spec.nc)]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = NORM_EPS, NORM_MOMENTUM

    @property
    def layers(self) -> Sequence[NetworkLayer]:
        """The layers of `model` with the attributes that v6.1 gives them."""
        return cast("Sequence[NetworkLayer]", self.model)

    @property
    def head(self) -> Detect:
        """The last layer."""
        return cast("Detect", self.model[-1])

    @property
    def nc(self) -> int:
        """Number of classes."""
        return self.head.nc

    @property
    def stride(self) -> Tensor:
        """(levels,) pixels per cell of each output map."""
        return self.head.stride

    @property
    def geometry(self) -> HeadGeometry:
        """Anchors, strides and number of classes of the head."""
        return self.head.geometry

    def forward(self, x: Tensor, augment: bool = False) -> HeadOutput | tuple[Tensor, None]:
        """Return the predictions for a batch of images.

        Args:
            x: (B, ch, H, W) images of values 0..1; H and W are multiples of the largest stride.
            augment: Test-time augmentation, in evaluation mode only.

        Returns:
            Training: a list of raw maps (B, na, H/s, W/s, 5+nc). Evaluation: (decoded (B, N, 5+nc) with xywh in
            pixels, raw maps). With `augment`: (decoded of three views, None).
        """
        return self._forward_augmented(x) if augment else self._forward_once(x)

    def _forward_once(self, x: Tensor) -> HeadOutput:
        result: Any = x  # a map, but for the head's result
        outputs: list[Any] = []  # None in place of a map that no later layer reads
        for layer in self.layers:
            f = layer.f
            if f != -1:
                result = outputs[f] if isinstance(f, int) else [result if j == -1 else outputs[j] for j in f]
            result = layer(result)
            outputs.append(result if layer.i in self.save else None)
        return result

    def _forward_augmented(self, x: Tensor) -> tuple[Tensor, None]:
        """Return the predictions of scaled and flipped views, concatenated, their boxes in pixels of `x`.

        As in v6.1 the largest stride's predictions of the full-size view and the smallest stride's of the smallest
        view are left out: the other views detect objects that large and that small.
        """
        views = []
        for scale, flip in AUGMENTED_VIEWS:
            view, ratio = _scale_and_pad(x.flip(3) if flip else x, scale, int(max(self.head.strides)))
            decoded, raw = self._forward_once(view)
            counts = [maps[0, ..., 0].numel() for maps in raw]
            if scale == AUGMENTED_VIEWS[0][0] and len(counts) > 1:
                decoded = decoded[:, : -counts[-1]]
            elif scale == AUGMENTED_VIEWS[-1][0] and len(counts) > 1:
                decoded = decoded[:, counts[0] :]
            views.append(_restore_boxes(decoded, ratio, flip, x.shape[3]))
        return torch.cat(views, 1), None

    def fuse(self) -> "Model":
        """Fold batch norms into convolutions for inference and return the model; its parameters are frozen then."""
        for module in self.modules():
            fuse = getattr(module, "fuse", None)
            if module is not self and callable(fuse):
                fuse()
        return self.requires_grad_(False)

    def summary(self, imgsz: int = 640, verbose: bool = False) -> str:
        """Log and return v6.1's summary line.

        Args:
            imgsz: Side of the image in pixels that operations are counted for.
            verbose: Log the table of layers first.

        Returns:
            The line: numbers of layers, parameters and gradients, and GFLOPs.
        """
        from models.graph.flops import describe_gflops

        if verbose:
            LOGGER.info(f"{'':>3}{'from':>18}{'n':>3}{'params':>10}  {'module':<40}{'arguments':<30}")
            for layer in self.layers:
                LOGGER.info(
                    f"{layer.i:>3}{str(layer.f):>18}{layer.repeats:>3}{layer.np:>10}  "
                    f"{layer.type:<40}{layer.arguments:<30}"
                )
        parameters = sum(parameter.numel() for parameter in self.parameters())
        gradients = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        line = (
            f"Model Summary: {len(list(self.modules()))} layers, {parameters} parameters, {gradients} gradients, "
            f"{describe_gflops(self, imgsz)}"
        )
        LOGGER.info(line)
        return line


def _scale_and_pad(x: Tensor, scale: float, multiple: int) -> tuple[Tensor, tuple[float, float]]:
    """Return `x` scaled and padded with gray to a multiple of `multiple`, and the exact (x, y) ratios."""
    if scale == 1:
        return x, (1.0, 1.0)
    H, W = x.shape[2:]
    height, width = int(H * scale), int(W * scale)
    small = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    right = math.ceil(W * scale / multiple) * multiple - width
    bottom = math.ceil(H * scale / multiple) * multiple - height
    return F.pad(small, (0, right, 0, bottom), value=GRAY), (width / W, height / H)


def _restore_boxes(decoded: Tensor, ratio: tuple[float, float], flip: bool, width: int) -> Tensor:
    """Return a view's predictions with xywh in pixels of the image that it was made from, `width` wide."""
    xywh = decoded[..., :4] / decoded.new_tensor((*ratio, *ratio))
    if flip:
        xywh = torch.cat((width - xywh[..., :1], xywh[..., 1:]), -1)
    return torch.cat((xywh, decoded[..., 4:]), -1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `python models/yolo.py` and return its exit code."""
    import argparse

    from utils.device import select_device
    from utils.profile.timing import log_layer_times

    parser = argparse.ArgumentParser(prog="yolo.py", description="Build a model yaml and show its layers.")
    parser.add_argument("--cfg", default="yolov5s.yaml", help="model yaml, or its bare name in models/ or models/hub/")
    parser.add_argument("--device", default="", help="cpu, mps or a CUDA device index")
    parser.add_argument("--profile", action="store_true", help="time every layer")
    parser.add_argument("--test", action="store_true", help="build every yaml of models/ and report failures")
    options = parser.parse_args(argv)
    configure()
    try:
        if options.test:
            return _build_all()
        device = select_device(options.device)
        model = Model(options.cfg).to(device)
        model.summary(verbose=True)
        if options.profile:
            log_layer_times(model, device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _build_all() -> int:
    """Build every yaml of models/, log its parameters, and return 1 if one fails, else 0."""
    failed = 0
    for path in sorted(find_yaml("yolov5s.yaml").parent.rglob("yolo*.yaml")):
        try:
            model = Model(path)
            LOGGER.info(f"{path.name}: {sum(parameter.numel() for parameter in model.parameters())} parameters")
        except UserError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
