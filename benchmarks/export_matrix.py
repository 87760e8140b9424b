"""Which variants survive export in which runtime: the matrix of docs/export.md, measured.

    python benchmarks/export_matrix.py --weights yolov5n.pt --images bus.jpg zidane.jpg
                                                             measure what is missing: a minute per variant
    python benchmarks/export_matrix.py --variants CBAM Swin  some, again
    python benchmarks/export_matrix.py --columns "ONNX static"
    python benchmarks/export_matrix.py --table               write the table of docs/export.md, in both languages

Every variant is built at scale n with the official weights; what is new has weights of a seed, batch norms and gates
disturbed so that no gate is idle. Each file is run on the first image at three sizes and compared with torch. A static
file is exported once for each size. A cell is right if it is within the tolerance of export.py, or within four times
the difference that torch in float32 has to float64, where a network amplifies rounding. The base, P6, ghost and
transformer networks are rows too. Every variant runs in a process of its own: a runtime that crashes takes nothing with
it. The results are kept in docs/export_matrix.json.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models.inference import LEAST_STRIDE, largest_stride  # noqa: E402
from models.yolo import Model  # noqa: E402
from models.zoo.table import load_variants  # noqa: E402
from utils.checkpoint import read_checkpoint  # noqa: E402
from utils.config import ExportConfig, from_options  # noqa: E402
from utils.export.exporting import CHECK_IMAGES  # noqa: E402
from utils.export.file_formats import EXPORT_FORMATS, ExportJob  # noqa: E402
from utils.export.graph_network import GraphNetwork  # noqa: E402
from utils.export.parity import EXACT, OutputDifference, check_batches, compare_file, rounding_of  # noqa: E402
from utils.runtimes.metadata import ExportMetadata  # noqa: E402
from utils.runtimes.opening import open_runtime  # noqa: E402
from utils.transfer.pretrained import transfer_weights  # noqa: E402

RESULTS = ROOT / "docs" / "export_matrix.json"
PAGE = ROOT / "docs" / "export.md"
CHINESE_PAGE = ROOT / "docs" / "export.zh-CN.md"
CHINESE = {
    "Agree at all three sizes: {}.": "三种尺寸都一致的变体数：{}。",
    "{} {} of {}": "{} {} / {}",
    "variant": "变体",
    "fails": "失败",
    "Why cells fail:": "失败的原因：",
}
MARKERS = ("<!-- made by `python benchmarks/export_matrix.py --table` -->", "<!-- end: matrix -->")
SIZES = ((320, 320), (256, 384), (352, 480))  # height, width
P6_SIZES = (*SIZES[:2], (384, 448))  # multiples of 64
OTHERS = {"base": "yolov5n", "P6": "yolov5n6", "ghost": "yolov5s-ghost", "transformer": "yolov5s-transformer"}
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "opencv-python", "ncnn", "pnnx")
# column -> format, whether one file serves all sizes, whether OpenCV runs it
COLUMNS: dict[str, tuple[str, bool, bool]] = {
    "ONNX static": ("onnx", False, False),
    "ONNX dynamic": ("onnx", True, False),
    "TorchScript": ("torchscript", True, False),
    "OpenVINO": ("openvino", True, False),
    "OpenCV": ("onnx", False, True),
    "ncnn": ("ncnn", False, False),
}
SECONDS = 900  # for one variant
LONGEST = 160  # characters of an error
LOGIT_SPREAD = 2.0  # standard deviation of the head's outputs, as those of trained weights have


def main() -> None:
    """Measure, or write the table."""
    options = arguments()
    if options.one:
        model = disturbed_model(options.one, options.weights, options.images)
        measurement = Measurement(model, options.images[0])
        print(json.dumps({column: measurement.cell(column) for column in options.columns}))
        return
    if options.table:
        for page, words in ((PAGE, {}), (CHINESE_PAGE, CHINESE)):
            page.write_text(with_table(page.read_text(encoding="utf-8"), words), encoding="utf-8")
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": {}}
    results["versions"] = {name: installed(name) for name in PACKAGES}
    results["images"] = [image.name for image in options.images]
    results["python"] = platform.python_version()
    for name in options.variants or rows():
        row = results["rows"].setdefault(name, {})
        wanted = [column for column in options.columns if options.variants or column not in row]
        if wanted:
            row.update(measure(name, wanted, options))
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(name, {column: text(row[column]) for column in wanted}, flush=True)


def rows() -> list[str]:
    """Return the names of all rows: the base and the other kinds of networks, then every variant."""
    return [*OTHERS, *load_variants()]


def measure(name: str, columns: list[str], options: argparse.Namespace) -> dict[str, dict]:
    """Return the cells of a row, measured in a process of their own; if it dies, each column is measured alone."""
    command = [sys.executable, __file__, "--one", name, "--columns", *columns, "--weights", str(options.weights)]
    command += ["--images", *map(str, options.images)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        reason = f"the process ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"over {SECONDS} s"
    if len(columns) > 1:
        return {column: found for one in columns for column, found in measure(name, [one], options).items()}
    return {columns[0]: {"error": reason}}


class Measurement:
    """One variant in all columns: files that start from the same graph share it.

    Args:
        model: The variant, in evaluation mode.
        image: On which files are compared with torch.
    """

    def __init__(self, model: Model, image: Path):
        self.model, self.image = model, image
        self.sizes = P6_SIZES if max(model.stride) > LEAST_STRIDE else SIZES
        self.reference = GraphNetwork(model)
        self._jobs: dict[tuple, ExportJob] = {}
        self._rounding: dict[tuple[int, int], OutputDifference] = {}

    def cell(self, column: str) -> dict:
        """Return the differences in a column at each size, or the error."""
        try:
            found = list(self.differences(column))
        except Exception as error:  # whatever a runtime raises is the cell's content
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = re.sub(r"/\S*/(?=model)", "", lines[0]) if lines else ""  # without the temporary folder
            line = f"{type(error).__name__}: {reason}"
            return {"error": line if len(line) < LONGEST else line[:LONGEST].rpartition(" ")[0]}
        return {
            "pixels": [float(f"{each.pixels:.2g}") if each.finite else None for each, _ in found],
            "scores": [float(f"{each.score:.2g}") if each.finite else None for each, _ in found],
            "rounding": [float(f"{own.pixels:.2g}") for _, own in found],
            "ok": [each.within(EXACT, own) for each, own in found],
        }

    def differences(self, column: str) -> Iterator[tuple[OutputDifference, OutputDifference]]:
        """Yield how far a column's file is from torch at each size, and how far torch is from its float64."""
        name, one_file, by_opencv = COLUMNS[column]
        with tempfile.TemporaryDirectory() as folder:
            path = EXPORT_FORMATS[name].path(Path(folder) / "model")
            for index, size in enumerate(self.sizes):
                if index == 0 or not one_file:
                    EXPORT_FORMATS[name].write(self._job(size, one_file), path)
                    runtime = open_runtime(path, dnn=by_opencv)
                (images, _) = check_batches([self.image], size, LEAST_STRIDE)
                if size not in self._rounding:
                    self._rounding[size] = rounding_of(self.reference, images)
                yield compare_file(runtime.run, self.reference, images, EXACT), self._rounding[size]

    def _job(self, size: tuple[int, int], dynamic: bool) -> ExportJob:
        """Return what is written: a file of one size, or of any."""
        if (size, dynamic) not in self._jobs:
            (images, _) = check_batches([self.image], size, LEAST_STRIDE)
            network = GraphNetwork(self.model, None if dynamic else size)
            names, stride = tuple(self.model.names), largest_stride(self.model)
            metadata = ExportMetadata(names, stride, size, dynamic=dynamic, variant="model")
            config = from_options(ExportConfig, include=("onnx",), dynamic=dynamic)
            self._jobs[size, dynamic] = ExportJob(network, images, metadata, config)
        return self._jobs[size, dynamic]


def disturbed_model(name: str, weights: Path, images: Sequence[Path], seed: int = 0) -> Model:
    """Return a variant in evaluation mode with the weights that fit, and new layers in which nothing is idle.

    Gates that start at zero, and scales that start at one, would hide what stands behind them. New batch norms get the
    statistics of the images: those of an untrained network would leave every output its bias.
    """
    torch.manual_seed(seed)
    model = Model(f"{OTHERS.get(name, f'yolov5n_{name}')}.yaml", report=False)
    report = transfer_weights(model, read_checkpoint(weights))
    known = {row.target for row in report.rows if row.source and row.target}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key not in known and parameter.numel() == max(parameter.shape, default=1):
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.eval()
        for key, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{key}.weight" not in known:
                module.momentum = 1.0
                module.train()
        raw = model(torch.cat([check_batches([image], P6_SIZES[0], 64)[0] for image in images]))[1]
        for conv, maps in zip(model.head.m, raw, strict=True):  # an untrained head answers its bias everywhere
            if f"model.{len(model.model) - 1}.m.0.weight" not in known:
                conv.weight.mul_(LOGIT_SPREAD / maps.std((0, 2, 3)).mean())
    return model.eval()


def text(found: dict) -> str:
    """Return a cell as the table shows it: the largest difference in pixels if all sizes agree."""
    if "error" in found:
        return "fails"
    if all(found["ok"]):
        return f"{max(found['pixels']):.1g}"
    return " / ".join(
        "ok" if fine else "NaN" if pixels is None else f"**{pixels:.2g}**"
        for fine, pixels in zip(found["ok"], found["pixels"], strict=True)
    )


def with_table(page: str, words: Mapping[str, str] | None = None) -> str:
    """Return the page with the table of the results between its markers, in English or in the words given."""
    before, _, rest = page.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    made = table(json.loads(RESULTS.read_text(encoding="utf-8")), words or {})
    return f"{before}{MARKERS[0]}\n{made}\n{MARKERS[1]}{after}"


def table(results: dict, words: Mapping[str, str]) -> str:
    """Return versions, shares of cells that agree, the matrix, and why cells fail."""

    def say(english: str, *values: object) -> str:
        return words.get(english, english).format(*values)

    found = results["rows"]
    names = [name for name in rows() if name in found]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [f"Python {results['python']}, {versions}.", ""]
    shares = []
    for column in COLUMNS:
        cells = [found[name][column] for name in names if column in found[name]]
        good = sum("error" not in each and all(each["ok"]) for each in cells)
        shares.append(say("{} {} of {}", column, good, len(cells)))
    lines += [say("Agree at all three sizes: {}.", ", ".join(shares)), ""]
    lines += [f"| {say('variant')} | {' | '.join(COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for name in names:
        cells = [text(found[name].get(column, {"error": ""})) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(say(cell) for cell in cells)} |")
    reasons = [
        f"- {name}, {column}: `{found[name][column]['error']}`"
        for name in names
        for column in COLUMNS
        if "error" in found[name].get(column, {})
    ]
    return "\n".join([*lines, *(["", say("Why cells fail:"), "", *reasons] if reasons else [])])


def installed(package: str) -> str:
    """Return a package's version, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def arguments() -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="measure these again; default: all not measured")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--weights", type=Path, default=ROOT / "yolov5n.pt", help="whose weights all variants get")
    parser.add_argument("--images", type=Path, nargs="+", default=list(CHECK_IMAGES), help="the first is compared on")
    parser.add_argument(
        "--table", action="store_true", help="write the table of docs/export.md and its Chinese edition"
    )
    parser.add_argument("--one", metavar="NAME", help="measure one variant and print its cells as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
