"""The options of export.py: YOLOv5 v6.1's flags with their defaults where they make sense here, and a few more."""

from collections.abc import Mapping
from dataclasses import dataclass

from utils.config import old_flags
from utils.config.flags import Options, flag
from utils.config.image_size import both_sides
from utils.errors import ConfigError
from utils.files import ROOT

FORMATS = ("onnx", "torchscript", "openvino", "engine", "coreml", "tflite", "ncnn")
NOT_WRITTEN = {
    "saved_model": "TensorFlow's formats are written by way of tflite only",
    "pb": "TensorFlow's formats are written by way of tflite only",
    "edgetpu": "compile the tflite file with Google's edgetpu_compiler",
    "tfjs": "browsers run the onnx file with onnxruntime-web",
}


@dataclass(frozen=True)
class ExportConfig(Options):
    """The flags of export.py. Field names are the flags with underscores."""

    data: str = flag(str(ROOT / "data" / "shapes.yaml"), "dataset yaml that a bare --int8 calibrates on")
    weights: tuple[str, ...] = flag(
        (str(ROOT / "yolov5s.pt"),), "checkpoint; several make an ensemble in one file", many=True
    )
    imgsz: tuple[int, int] = flag(
        (640, 640),
        "network input in pixels: one side, or height and width",
        "integer",
        many=True,
        low=32,
        aliases=("--img", "--img-size"),
    )
    batch_size: int = flag(1, "images per batch of a file without --dynamic", "integer", low=1)
    device: str = flag("cpu", "cpu, mps or a CUDA device number such as 0")
    half: bool = flag(False, "weights and activations in half precision; input and output stay float32", "switch")
    inplace: bool = flag(False, "v6.1's flag; the graph is the same with and without it", "switch")
    optimize: bool = flag(False, "torchscript: optimize the file for phones", "switch")
    int8: str = flag(
        "",
        "onnx, openvino: 8-bit convolutions, calibrated on the train images of this dataset yaml (bare: of --data)",
        const="--data",
    )
    dynamic: bool = flag(False, "leave batch, height and width open", "switch")
    simplify: bool = flag(False, "onnx: shorten the graph with onnxslim", "switch")
    opset: int = flag(20, "onnx: version of the operator set, 18 to 23; v6.1 wrote 12", "integer", low=1)
    verbose: bool = flag(False, "print the operators of the file", "switch")
    workspace: float = flag(4, "engine: GB of memory that TensorRT may use while it builds", "number", low=0)
    nms: bool = flag(False, "onnx: suppress boxes within the file; confidence and overlap become inputs", "switch")
    agnostic_nms: bool = flag(False, "--nms: let boxes of different classes suppress each other", "switch")
    topk_per_class: int = flag(100, "--nms: most boxes of one class", "integer", low=1)
    topk_all: int = flag(100, "--nms: boxes per image of the outputs", "integer", low=1)
    iou_thres: float = flag(0.45, "--nms: overlap with which the file is checked", "number", low=0, high=1)
    conf_thres: float = flag(0.25, "--nms: confidence with which the file is checked", "number", low=0, high=1)
    include: tuple[str, ...] = flag(("torchscript", "onnx"), f"formats to write: {', '.join(FORMATS)}", many=True)
    runtime_check: bool = flag(
        True, "run each file in its runtime and compare it with torch before it is handed out", "choice", new=True
    )
    debug_parity: bool = flag(
        False, "if a file differs, name the first module that does within the first layer", "switch", new=True
    )
    check_image: str = flag("", "image on which files are compared with torch; default: those of data/images", new=True)
    calibration_images: int = flag(
        128, "--int8: number of images, evenly spaced over the split", "integer", low=1, new=True
    )
    output: str = flag("", "folder of the files; default: beside the weights", new=True)
    download: bool = flag(
        False, "fetch published weights that are not on disk; nothing is fetched without it", "switch", new=True
    )
    plugin: tuple[str, ...] = flag(
        (), "a Python file of your own to import first, such as one that registers a block; may be repeated",
        repeatable=True, new=True,
    )  # fmt: skip

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {"--train": "files are for inference; train on from the checkpoint, with train.py --weights or --resume"}

    @classmethod
    def retired(cls) -> Mapping[str, str]:
        return {
            **old_flags.EVERYWHERE,
            "--format": "is --include here",
            "--formats": "is --include here",
            "--keras": "Keras models are not written; --include tflite",
            "--grid": "boxes are always decoded within the file; leave it out",
            "--end2end": "is --nms here",
        }

    def implied(self) -> dict[str, object]:
        only_onnx = (self.int8 or self.nms) and "include" not in self.given  # the default's other format has neither
        formats: dict[str, object] = {"include": ("onnx",)} if only_onnx else {}
        return {"imgsz": both_sides(self.imgsz), **formats, "int8": self.data if self.int8 == "--data" else self.int8}

    def check(self) -> None:
        for name in self.include:
            if name not in FORMATS:
                advice = NOT_WRITTEN.get(name, f"expected {', '.join(FORMATS)}")
                raise ConfigError(f"--include {name}: {advice}")
        if self.int8 and self.half:
            raise ConfigError("--int8 and --half: choose one; each sets the precision of the whole file")
        self._check_formats("int8", ("onnx", "openvino"), bool(self.int8))
        self._check_formats("nms", ("onnx",), self.nms)
        self._check_formats("dynamic", ("onnx", "torchscript", "openvino", "engine"), self.dynamic)
        self._check_formats("simplify", ("onnx",), self.simplify, any_of=True)
        self._check_formats("optimize", ("torchscript",), self.optimize, any_of=True)

    def _check_formats(self, flag_name: str, formats: tuple[str, ...], given: bool, any_of: bool = False) -> None:
        others = [name for name in self.include if name not in formats]
        if given and others and not (any_of and len(others) < len(self.include)):
            owners = f"{' and '.join(formats)} {'have' if len(formats) > 1 else 'has'} it"
            raise ConfigError(f"--{flag_name} with --include {others[0]}: only {owners}; leave one out")
