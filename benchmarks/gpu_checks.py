"""Check and time everything that runs on a GPU, and write docs/gpu.json and docs/gpu.md.

    python benchmarks/gpu_checks.py --shared ../shared              # one GPU, at most 8 minutes
    python benchmarks/gpu_checks.py --device cpu --quick            # the same program on a CPU, over less

First correctness, then speed. A part that the time left does not allow is listed as not run. `--shared` is the folder
of the reference data (CONTRIBUTING.md); without it the parts that need them are listed as not run.
"""

import argparse
import copy
import json
import platform
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from interruptions import StopAfter  # noqa: E402
from small_data import drawn_yaml  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import train  # noqa: E402
import val  # noqa: E402
from models.registry import registered  # noqa: E402
from models.yolo import Model  # noqa: E402
from models.zoo.table import load_variants  # noqa: E402
from utils import log  # noqa: E402
from utils.checkpoint import load_models, read_checkpoint  # noqa: E402
from utils.config import DatasetSpec, Hyperparameters, LoaderOptions, SplitOptions, TrainConfig, from_options  # noqa: E402
from utils.datasets import prepare  # noqa: E402
from utils.datasets.dataset import DetectionDataset  # noqa: E402
from utils.datasets.labels import read_labels  # noqa: E402
from utils.datasets.loader import Loader  # noqa: E402
from utils.device import network_input, select_device  # noqa: E402
from utils.engine.training import train as run_training  # noqa: E402
from utils.files import ROOT, write_json_atomically, write_text_atomically  # noqa: E402
from utils.loss import DetectionLoss  # noqa: E402
from utils.nms import non_max_suppression  # noqa: E402
from utils.types import HeadGeometry  # noqa: E402

IMGSZ = 640
BLOCKS = ("CoTAttention", "MHSA", "EMA", "CBAM", "TripletAttention")  # timed against their literal forms
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Least cosine to the float32 gradient of an untrained network on two images, where batch norms magnify rounding; a
# gradient that is wrong has one near 0.
LEAST_COSINE = {"fp16": 0.9, "bf16": 0.4}
CHANNELS = 128
DONE, FAILED, NOT_RUN = "passed", "FAILED", "not run"


@dataclass(frozen=True)
class Finding:
    """One row of the report.

    Attributes:
        section: Which part of the program.
        name: What was checked or timed.
        status: DONE, FAILED or NOT_RUN.
        value: The figure, None if there is none.
        limit: What the figure was compared with, "" for times.
        note: What else is to know.
    """

    section: str
    name: str
    status: str
    value: float | None = None
    limit: str = ""
    note: str = ""


@dataclass
class Report:
    """What was found, and how much time is left.

    Attributes:
        device: Where everything runs.
        quick: Run over less: three variants, small networks, few repetitions.
        shared: Folder of the reference data, None if there is none.
        deadline: When the last part may start, by `time.perf_counter`.
        rows: The findings so far.
    """

    device: torch.device
    quick: bool
    shared: Path | None
    deadline: float
    rows: list[Finding] = field(default_factory=list)

    def add(self, *values: object, **named: object) -> None:
        """Keep a finding and print it."""
        row = Finding(*values, **named)  # type: ignore[arg-type]  # the fields of the record
        self.rows.append(row)
        figure = "" if row.value is None else f" {row.value:.4g} {row.limit}"
        print(f"{row.section}: {row.name}: {row.status}{figure} {row.note}".rstrip(), flush=True)

    def compare(self, section: str, name: str, value: float, most: float) -> None:
        """Keep a figure that must be at most a limit."""
        self.add(section, name, DONE if value <= most else FAILED, value, f"<= {most:g}")

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    def names(self, all_of_them: list[str]) -> list[str]:
        """The variants to go through."""
        return all_of_them[:3] if self.quick else all_of_them

    def run(self, section: str, work: Callable[["Report"], None]) -> None:
        """Run a part, unless time is up; an error of the part is a finding and ends the part alone."""
        if time.perf_counter() > self.deadline:
            self.add(section, "all", NOT_RUN, note="time was up")
            return
        started = time.perf_counter()
        try:
            work(self)
        except (RuntimeError, ValueError, OSError) as error:
            self.add(section, "all", FAILED, note=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
        print(f"{section}: {time.perf_counter() - started:.1f} s", flush=True)

    def late(self) -> bool:
        """Whether time is up."""
        return time.perf_counter() > self.deadline


def variant_network(name: str, scale: str = "n") -> Model:
    """Return a variant with weights that its name decides."""
    torch.manual_seed(0)
    path = ROOT / "models" / (f"yolov5{scale}.yaml" if name == "base" else f"yolov5{scale}_{name}.yaml")
    return Model(str(path))


def drawn_batch(device: torch.device, count: int, imgsz: int) -> tuple[Tensor, Tensor]:
    """Return (count, 3, imgsz, imgsz) images in 0..1 and (4 count, 6) targets, the same on every device."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, imgsz, imgsz, generator=generator)
    owners = torch.arange(count).repeat_interleave(4).float()[:, None]
    classes = torch.randint(80, (4 * count, 1), generator=generator).float()
    boxes = torch.rand(4 * count, 4, generator=generator) * 0.4 + 0.1
    return images.to(device), torch.cat((owners, classes, boxes), 1).to(device)


def relative(ours: Tensor, wanted: Tensor) -> float:
    """Return the largest difference, as a share of the largest value."""
    ours, wanted = ours.detach().double().cpu(), wanted.detach().double().cpu()
    return float((ours - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


def check_variants(report: Report) -> None:
    """Every variant: the forward pass against the CPU's, and one training step in half precision."""
    for name in report.names(["base", *load_variants()]):
        if report.late():
            report.add("variants", name, NOT_RUN, note="time was up")
            continue
        model = variant_network(name)
        images, targets = drawn_batch(torch.device("cpu"), 2, 128)
        with torch.no_grad():
            wanted = model.eval()(images)[0]
            model.to(report.device)
            report.compare("variants", f"{name} forward", relative(model(images.to(report.device))[0], wanted), 1e-3)
        exact = gradients(model, images, targets, None)
        for label, dtype in DTYPES.items():
            found = gradients(model, images, targets, dtype)
            if not bool(torch.isfinite(found).all()):
                report.add("variants", f"{name} step {label}", FAILED, note="gradients are not finite")
                continue
            cosine = float(nn.functional.cosine_similarity(found, exact, dim=0))
            least = LEAST_COSINE[label]
            status = DONE if cosine > least else FAILED
            report.add("variants", f"{name} step {label}", status, cosine, f"cosine to fp32's gradient > {least}")


def gradients(model: nn.Module, images: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return all gradients of one training step as one vector on the host; the model stays as it is."""
    work = copy.deepcopy(model).train()
    device = next(work.parameters()).device
    loss = DetectionLoss(work.geometry, Hyperparameters(), device)
    context = torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()
    with context:
        total, _ = loss(work(images.to(device)), targets.to(device))
    total.backward()
    taken = [weight.grad.flatten() for weight in work.parameters() if weight.grad is not None]
    return torch.cat(taken).double().cpu()


def check_loss(report: Report) -> None:
    """The loss and its gradients against the reference figures."""
    golden = report.shared / "golden" if report.shared else None
    if golden is None or not golden.is_dir():
        report.add("loss", "reference figures", NOT_RUN, note="no --shared folder")
        return
    for file in sorted(golden.glob("loss_*.npz")):
        figures = dict(np.load(file))
        anchors, strides = torch.from_numpy(figures["anchors"]), torch.from_numpy(figures["stride"])
        geometry = HeadGeometry(anchors, strides, int(figures["nc"]))
        hyp = types.SimpleNamespace(**{"label_smoothing": 0.0, **json.loads(str(figures["hyp"]))})
        maps = [
            torch.from_numpy(figures[f"pred{level}"]).to(report.device).requires_grad_()
            for level in range(geometry.levels)
        ]
        total, _ = DetectionLoss(geometry, hyp, report.device)(maps, torch.from_numpy(figures["targets"]))
        total.backward()
        worst = relative(total.reshape(1), torch.from_numpy(figures["loss"]))
        for level, raw_map in enumerate(maps):
            worst = max(worst, relative(raw_map.grad, torch.from_numpy(figures[f"grad{level}"])))
        report.compare("loss", file.stem, worst, 1e-4)


def check_nms(report: Report) -> None:
    """Suppression against the CPU's, on random boxes."""
    generator = torch.Generator().manual_seed(3)
    for conf in (0.001, 0.25):
        rows = torch.rand(4, 250, 85, generator=generator)
        rows[..., :4] = rows[..., :4] * 200 + 20
        wanted = non_max_suppression(rows, conf, 0.6, multi_label=True)
        found = non_max_suppression(rows.to(report.device), conf, 0.6, multi_label=True)
        same = all(
            torch.equal(a.cls.cpu(), b.cls) and torch.equal(a.conf.cpu(), b.conf)
            for a, b in zip(found, wanted, strict=True)
        )
        report.add("nms", f"conf {conf}", DONE if same else FAILED, note=f"{sum(map(len, wanted))} boxes")


def check_resume(report: Report) -> None:
    """A training stopped after the first of two epochs and resumed, against one that was not stopped."""
    with tempfile.TemporaryDirectory() as folder:
        options = dict(
            cfg="yolov5n_CBAM.yaml",
            data=str(drawn_yaml(Path(folder), train=32, val=8, test=2)),
            imgsz=128,
            epochs=2,
            batch_size=8,
            workers=0,
            noautoanchor=True,
            deterministic=True,
            device=str(report.device).removeprefix("cuda:"),
            project=folder,
        )
        whole = train.run(**options, name="whole")
        with suppress(KeyboardInterrupt):
            run_training(from_options(TrainConfig, **options, name="stopped"), hooks=[StopAfter(1)])
        resumed = train.run(resume=f"{folder}/stopped/weights/last.pt", device=options["device"])
        states = [read_checkpoint(run.save_dir / "weights" / "last.pt").state for run in (whole, resumed)]
    worst = max(relative(states[1][name].float(), states[0][name].float()) for name in states[0])
    report.compare("resume", "1 + 1 epochs against 2", worst, 1e-3)


def check_half(report: Report) -> None:
    """mAP of yolov5n on 128 COCO images in half precision against float32."""
    shared = report.shared / "data" if report.shared else None
    if not report.on_gpu or shared is None or not (shared / "coco_val128").is_dir():
        report.add("half", "coco_val128", NOT_RUN, note="needs a GPU and --shared")
        return
    with tempfile.TemporaryDirectory() as folder:
        names = load_models([shared / "weights" / "yolov5n.pt"], torch.device("cpu")).names
        yaml = Path(folder) / "coco_val128.yaml"
        yaml.write_text(
            f"path: {shared / 'coco_val128'}\ntrain: images\nval: images\nnames: {json.dumps(list(names))}\n"
        )
        scores = []
        for half in (False, True):
            result = val.run(
                weights=str(shared / "weights" / "yolov5n.pt"),
                data=str(yaml),
                half=half,
                project=folder,
                device=str(report.device).removeprefix("cuda:"),
                no_cache_labels=True,
            )
            scores.append(result.evaluation.metrics)
        report.compare("half", "mAP50", abs(scores[0].map50 - scores[1].map50), 0.002)
        report.compare("half", "mAP50-95", abs(scores[0].map - scores[1].map), 0.002)


def milliseconds(report: Report, work: Callable[[], object], rounds: int | None = None) -> float:
    """Return the median time of a call, the device's queue emptied before and after."""
    rounds = rounds or (2 if report.quick else 8)
    work()
    work()
    times = []
    for _ in range(rounds):
        wait(report)
        started = time.perf_counter()
        work()
        wait(report)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def wait(report: Report) -> None:
    """Wait until the device has done what was queued."""
    if report.on_gpu:
        torch.cuda.synchronize(report.device)


def forms(report: Report) -> Iterator[tuple[str, torch.dtype | None, bool, bool]]:
    """Yield name, type, channels last and compiled of every form that is timed."""
    yield "fp32", None, False, False
    if report.on_gpu:
        yield "fp16", torch.float16, False, False
    yield "bf16", torch.bfloat16, False, False
    yield "channels_last", torch.float16 if report.on_gpu else None, True, False
    if not report.quick:
        yield "compiled", torch.float16 if report.on_gpu else None, True, True


def time_networks(report: Report) -> None:
    """Inference and training of the base at its scales, batch 1 and 64."""
    imgsz, scales = (128, "n") if report.quick else (IMGSZ, "nsml")
    for scale in scales:
        for batch in (1, 2) if report.quick else (1, 64):
            for label, dtype, last, compiled in forms(report):
                if report.late():
                    report.add("speed", f"{scale} batch {batch} {label}", NOT_RUN, note="time was up")
                    continue
                _time_network(report, scale, (batch, imgsz), (label, dtype, last, compiled))


def _time_network(
    report: Report, scale: str, size: tuple[int, int], form: tuple[str, torch.dtype | None, bool, bool]
) -> None:
    batch, imgsz = size
    label, dtype, last, compiled = form
    layout = torch.channels_last if last else torch.contiguous_format
    images, targets = drawn_batch(report.device, batch, imgsz)
    images = images.to(memory_format=layout)
    network = variant_network("base", scale).to(report.device, memory_format=layout)
    loss = DetectionLoss(network.geometry, Hyperparameters(), report.device)
    fused = copy.deepcopy(network).fuse().eval()
    forward = torch.compile(fused) if compiled else fused
    step_of = torch.compile(network) if compiled else network
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)

    def cast() -> torch.autocast | nullcontext:
        return torch.autocast(report.device.type, dtype=dtype) if dtype else nullcontext()

    def infer() -> None:
        with torch.no_grad(), cast():
            forward(images)

    def step() -> None:
        with cast():
            total, _ = loss(step_of(images), targets)
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    name = f"yolov5{scale} {imgsz} batch {batch} {label}"
    report.add("speed", f"{name} inference", DONE, milliseconds(report, infer) / batch, "ms/image")
    network.train()
    if batch > 1:
        report.add("speed", f"{name} training", DONE, milliseconds(report, step) / batch, "ms/image")


def time_loader(report: Report) -> None:
    """Images per second of the loader against the training step that uses them."""
    with tempfile.TemporaryDirectory() as folder:
        spec = DatasetSpec.load(drawn_yaml(Path(folder), train=64 if report.quick else 512, val=2, test=2))
        prepare.ensure(spec)
        store = read_labels(spec.paths("train"), 4, SplitOptions(cache_labels=False))
        dataset = DetectionDataset(store, SplitOptions(IMGSZ, augment=True), hyp=Hyperparameters())
        workers = 2 if report.quick else 16
        loader = Loader(dataset, LoaderOptions(16, workers, shuffle=True, pin_memory=report.on_gpu))
        sum(len(batch) for batch in loader.epoch(0))  # starts the workers
        started, count = time.perf_counter(), 0
        for batch in loader.epoch(1):
            network_input(batch.images, report.device)
            count += len(batch)
        wait(report)
        rate = count / (time.perf_counter() - started)
        loader.close()
    report.add("loader", f"{loader.workers} workers, {IMGSZ}", DONE, rate, "images/s")


def time_blocks(report: Report) -> None:
    """Attention blocks against the literal forms of their equations, which the tests hold."""
    from blocks import cases

    for name in BLOCKS:
        entry, known = registered().get(name), cases().get(name)
        if entry is None or known is None:
            report.add("blocks", name, NOT_RUN, note="no such block or no literal form")
            continue
        oracle = next(iter(known.oracles.values()))
        block = entry.cls(CHANNELS).to(report.device).eval()
        side = 20 if report.quick else 40
        x = torch.rand(4, CHANNELS, side, side, device=report.device)
        with torch.no_grad():
            ours = milliseconds(report, lambda block=block, x=x: block(x))
            literal = milliseconds(report, lambda block=block, x=x, slow=oracle.slow: slow(block, x))
        report.add("blocks", f"{name} {CHANNELS} x {side} x {side}", DONE, literal / ours, "x faster than literal")


def count_waits(report: Report) -> None:
    """How often the host waits for the device in one training step."""
    if not report.on_gpu:
        report.add("waits", "training step", NOT_RUN, note="needs a GPU")
        return
    network = variant_network("CBAM").to(report.device).train()
    loss = DetectionLoss(network.geometry, Hyperparameters(), report.device)
    images, targets = drawn_batch(report.device, 8, 320)
    loss(network(images), targets)[0].backward()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            loss(network(images), targets)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    report.compare("waits", "forward, loss and backward of CBAM", float(len(seen)), 0)


PARTS: dict[str, Callable[[Report], None]] = {
    "variants": check_variants,
    "loss": check_loss,
    "nms": check_nms,
    "resume": check_resume,
    "half": check_half,
    "waits": count_waits,
    "loader": time_loader,
    "blocks": time_blocks,
    "speed": time_networks,
}


def machine(device: torch.device) -> dict[str, str]:
    """Return what the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}


def page(report: Report, about: dict[str, str], command: str) -> str:
    """Return docs/gpu.md."""
    failed = [row for row in report.rows if row.status == FAILED]
    lines = [
        "# On a GPU",
        "",
        f"Measured on {about['device']} with torch {about['torch']}, Python {about['python']}, by",
        "",
        f"```bash\n{command}\n```",
        "",
        f"{sum(row.status == DONE for row in report.rows)} parts passed, {len(failed)} failed, "
        f"{sum(row.status == NOT_RUN for row in report.rows)} were not run.",
        "",
        "| part | what | result | figure | |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for row in report.rows:
        figure = "" if row.value is None else f"{row.value:.4g}"
        lines.append(f"| {row.section} | {row.name} | {row.status} | {figure} | {row.limit} {row.note} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run every part, write the two files, and return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="", help="cpu or a CUDA device number; '' chooses")
    parser.add_argument("--quick", action="store_true", help="go through the whole program over less")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of the reference data")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder of gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=7.5, help="no part is started later")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    log.configure()
    log.LOGGER.setLevel("WARNING")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = select_device(options.device)
    shared = options.shared if options.shared.is_dir() else None
    report = Report(device, options.quick, shared, time.perf_counter() + 60 * options.minutes)
    for name in options.parts:
        report.run(name, PARTS[name])
    about = machine(device)
    command = " ".join(["python benchmarks/gpu_checks.py", *sys.argv[1:]])
    options.output.mkdir(parents=True, exist_ok=True)
    write_json_atomically(
        options.output / "gpu.json", {**about, "command": command, "rows": list(map(asdict, report.rows))}
    )
    write_text_atomically(options.output / "gpu.md", page(report, about, command))
    return int(any(row.status == FAILED for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
