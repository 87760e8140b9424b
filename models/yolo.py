"""`parse_model` turns a yaml into layers; `Model` runs them: forward, test-time augmentation, fuse, summary.

python models/yolo.py --cfg yolov5s.yaml            build it and show its layers
python models/yolo.py --cfg yolov5s.yaml --profile  and how long each takes
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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.graph.architecture import IMAGE_SOURCE, as_list, check_sources, find_yaml
from models.graph.construction import build_layer
from models.graph.spec import LayerRow, ModelSpec, read_spec
from models.head import Detect
from models.registry import BLOCK_ERRORS, find
from utils.errors import ModelError, UserError
from utils.log import LOGGER, configure
from utils.types import HeadGeometry

PROBE_SIZE = 128  # side in pixels of the empty picture that the layers are tried on
NORM_EPS, NORM_MOMENTUM = 1e-3, 0.03
AUGMENTED_VIEWS = ((1.0, False), (0.83, True), (0.67, False))  # scale and left-right flip of each test-time view
GRAY = 0.447  # ImageNet's mean, which fills what a scaled picture leaves free


def parse_model(spec: ModelSpec) -> tuple[nn.Sequential, list[int]]:
    """Build a yaml's layers and return them with the numbers of those whose output is read later.

    Each layer is tried on the outputs of its sources as soon as it stands, so a mistake ends in a
    ModelError that names file, line, layer, sources and their shapes. Batch-norm statistics stay as they are.
    """
    built: list[nn.Module] = []
    outputs: list[Tensor] = []
    shown: list[str] = []  # "C3 (1, 64, 16, 16)": each layer as messages name it
    save: list[int] = []
    image = torch.zeros(1, spec.ch, PROBE_SIZE, PROBE_SIZE)
    for row in spec.rows:
        with _blamed(row, image, shown):
            check_sources(row.source, shown)
            inputs = _inputs(row, image, outputs)
            entry = find(row.block)
            is_head = entry.wiring_name == "detection"
            _check_head(spec, row, is_head)
            layer, planned = build_layer(entry, row, spec, [source.shape[1] for source in inputs])
            if is_head:
                layer.set_strides(_strides(spec, row, built, inputs))
            else:
                outputs.append(_try(layer, row, inputs, planned))
                shown.append(f"{entry.cls.__name__} {tuple(outputs[-1].shape)}")
        _label(layer, row, spec)
        built.append(layer)
        save += [source for given, source in zip(as_list(row.source), row.sources) if given != -1]
    return nn.Sequential(*built), sorted(save)


def _inputs(row: LayerRow, image: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    return [image if source == IMAGE_SOURCE else outputs[source] for source in row.sources]


def _given(row: LayerRow, inputs: list[Tensor]) -> Tensor | list[Tensor]:
    """A layer whose yaml source is a list gets a list."""
    return inputs if isinstance(row.source, list) else inputs[0]


@contextlib.contextmanager
def _blamed(row: LayerRow, image: Tensor, shown: Sequence[str]) -> Iterator[None]:
    """Turn whatever goes wrong inside into one line about this row and what it reads."""
    try:
        yield
    except (*BLOCK_ERRORS, ModelError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        sources = [
            f"the image {tuple(image.shape)}" if number == IMAGE_SOURCE else f"layer {number} {shown[number]}"
            for number in row.sources
            if number < len(shown) and number >= (IMAGE_SOURCE if row.index == 0 else 0)
        ]
        reads = f" [it reads {', '.join(sources)}]" if sources else ""
        raise ModelError(f"{row.where}: {reason}{reads}") from error


def _check_head(spec: ModelSpec, row: LayerRow, is_head: bool) -> None:
    is_last = row is spec.rows[-1]
    if is_head and not is_last:
        raise ValueError("a detection head must be the last row")
    if is_last and not is_head:
        raise ValueError("the last row must be a detection head, such as [[17, 20, 23], 1, Detect, [nc, anchors]]")


@torch.no_grad()
def _run(layer: nn.Module, row: LayerRow, inputs: list[Tensor]) -> Any:
    """Run a layer in evaluation, which leaves batch-norm statistics alone and takes a batch of one."""
    training = layer.training
    try:
        output = layer.eval()(_given(row, inputs))
    except BLOCK_ERRORS as error:
        raise ValueError(f"fails on what it reads: {error}") from error
    layer.train(training)
    return output


def _try(layer: nn.Module, row: LayerRow, inputs: list[Tensor], planned: int) -> Tensor:
    """Return what the layer makes of its sources. Raises ValueError if it is no map of the planned width."""
    sizes = {tuple(source.shape[2:]) for source in inputs}
    if len(sizes) > 1:
        raise ValueError(
            "its sources differ in height and width; scale one (nn.Upsample, or a stride of 2) or read another layer"
        )
    output = _run(layer, row, inputs)
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise ValueError(
            f"it must return one (B, C, H, W) tensor, got {getattr(output, 'shape', type(output).__name__)}"
        )
    if output.shape[1] != planned:
        raise ValueError(
            f"it emits {output.shape[1]} channels where its wiring promises {planned}; "
            f"check its arguments {list(row.args)} or the wiring= it is registered with"
        )
    return output


def _strides(spec: ModelSpec, row: LayerRow, built: Sequence[nn.Module], inputs: list[Tensor]) -> list[float]:
    """Return the strides of the head's sources; a map of one cell says little, so a larger picture is tried."""
    side = PROBE_SIZE
    while min(min(source.shape[2:]) for source in inputs) < 2 and side < 8 * PROBE_SIZE:
        side *= 2
        outputs: list[Tensor] = []
        image = torch.zeros(1, spec.ch, side, side)
        for earlier, layer in zip(spec.rows, built):
            outputs.append(_run(layer, earlier, _inputs(earlier, image, outputs)))
        inputs = _inputs(row, image, outputs)
    return [side / source.shape[2] for source in inputs]


def _label(layer: nn.Module, row: LayerRow, spec: ModelSpec) -> None:
    """Give a layer v6.1's attributes: i, f, type, np, and what the summary shows."""
    layer.i, layer.f = row.index, row.source
    layer.np = sum(parameter.numel() for parameter in layer.parameters())
    layer.repeats = spec.scale.repeats(row.repeats)


class Model(nn.Module):
    """A YOLOv5 detector built from a yaml.

    cfg: path or content of a model yaml; ch: input channels; nc, anchors: replace the yaml's (anchors as a
    number asks for that many a level); attention_start: "identity" puts each inserted attention block behind a
    zero gate, "plain" leaves it as published, None does what the yaml says. `model` holds the layers, the last of them is `head`; `names` are the
    classes; `yaml` is the content it was built from, from which `Model(model.yaml)` builds the same again.
    """

    def __init__(
        self,
        cfg: Path | str | Mapping = "yolov5s.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: int | float | list | None = None,
        attention_start: str | None = None,
    ):
        super().__init__()
        spec = read_spec(cfg, ch, nc, anchors, attention_start)
        self.yaml = spec.yaml
        self.yaml_file = Path(spec.file).name
        self.model, self.save = parse_model(spec)
        self.names = [str(number) for number in range(spec.nc)]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = NORM_EPS, NORM_MOMENTUM

    @property
    def head(self) -> Detect:
        return self.model[-1]

    @property
    def nc(self) -> int:
        return self.head.nc

    @property
    def stride(self) -> Tensor:
        """(levels,) pixels per cell of each output map."""
        return self.head.stride

    @property
    def geometry(self) -> HeadGeometry:
        return self.head.geometry

    def forward(self, x: Tensor, augment: bool = False) -> list[Tensor] | tuple[Tensor, list[Tensor] | None]:
        """Detect in images (B, ch, H, W) of values 0..1, H and W multiples of the largest stride.

        Training: a list of raw maps (B, na, H/s, W/s, 5+nc). Evaluation: (decoded (B, N, 5+nc) with xywh in
        pixels, raw maps); with `augment` (decoded of three views, None).
        """
        return self._forward_augmented(x) if augment else self._forward_once(x)

    def _forward_once(self, x: Tensor) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        outputs: list[Tensor | None] = []
        for layer in self.model:
            if layer.f != -1:
                x = outputs[layer.f] if isinstance(layer.f, int) else [x if j == -1 else outputs[j] for j in layer.f]
            x = layer(x)
            outputs.append(x if layer.i in self.save else None)
        return x

    def _forward_augmented(self, x: Tensor) -> tuple[Tensor, None]:
        """Test-time augmentation: scaled and flipped views, their boxes brought back to `x` and joined.

        As in v6.1 the largest stride's predictions of the full-size view and the smallest stride's of the
        smallest view are left out: objects that large and that small are the other views' business.
        """
        views = []
        for scale, flip in AUGMENTED_VIEWS:
            view, ratio = _scaled(x.flip(3) if flip else x, scale, int(max(self.head.strides)))
            decoded, raw = self._forward_once(view)
            counts = [maps[0, ..., 0].numel() for maps in raw]
            if scale == AUGMENTED_VIEWS[0][0] and len(counts) > 1:
                decoded = decoded[:, : -counts[-1]]
            elif scale == AUGMENTED_VIEWS[-1][0] and len(counts) > 1:
                decoded = decoded[:, counts[0] :]
            views.append(_to_original(decoded, ratio, flip, x.shape[3]))
        return torch.cat(views, 1), None

    def fuse(self) -> "Model":
        """Fold batch norms into convolutions, for inference: no parameter takes a gradient afterwards."""
        for module in self.modules():
            if module is not self and callable(getattr(module, "fuse", None)):
                module.fuse()
        return self.requires_grad_(False)

    def summary(self, imgsz: int = 640, verbose: bool = False) -> str:
        """Log and return v6.1's summary line; `verbose` logs the table of layers before it."""
        from models.graph.flops import describe_gflops

        if verbose:
            LOGGER.info(f"{'':>3}{'from':>18}{'n':>3}{'params':>10}  {'module':<40}{'arguments':<30}")
            for layer in self.model:
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


def _scaled(x: Tensor, scale: float, multiple: int) -> tuple[Tensor, tuple[float, float]]:
    """Return `x` at `scale`, padded with grey to a multiple, and the (x, y) ratios that were really reached."""
    if scale == 1:
        return x, (1.0, 1.0)
    H, W = x.shape[2:]
    height, width = int(H * scale), int(W * scale)
    small = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    right = math.ceil(W * scale / multiple) * multiple - width
    bottom = math.ceil(H * scale / multiple) * multiple - height
    return F.pad(small, (0, right, 0, bottom), value=GRAY), (width / W, height / H)


def _to_original(decoded: Tensor, ratio: tuple[float, float], flip: bool, width: int) -> Tensor:
    """Bring xywh of a view back to the picture it was made from."""
    xywh = decoded[..., :4] / decoded.new_tensor((*ratio, *ratio))
    if flip:
        xywh = torch.cat((width - xywh[..., :1], xywh[..., 1:]), -1)
    return torch.cat((xywh, decoded[..., 4:]), -1)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `python models/yolo.py`; returns an exit code."""
    import argparse

    from utils.device import select_device
    from utils.profile import log_layer_times

    parser = argparse.ArgumentParser(prog="yolo.py", description="Build a model yaml and show its layers.")
    parser.add_argument("--cfg", default="yolov5s.yaml", help="model yaml, or its bare name in models/ or models/hub/")
    parser.add_argument("--device", default="", help="cpu, mps or a CUDA device number")
    parser.add_argument("--profile", action="store_true", help="time every layer")
    parser.add_argument("--test", action="store_true", help="build every yaml of models/ and say which fail")
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
