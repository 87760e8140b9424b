"""make demo: train an attention variant on drawn scenes, validate it, and detect objects in images it has not seen."""

import argparse
import sys
import time
from pathlib import Path

import detect
import train
import val
from utils import log
from utils.cli import run_guarded
from utils.files import ROOT
from utils.log import LOGGER

FOLDER = ROOT / "runs" / "demo"
COMMON = dict(data="data/shapes.yaml", imgsz=128, workers=2, device="cpu")
TRAINING = dict(cfg="models/yolov5n_CBAM.yaml", hyp="hyp.shapes.yaml", epochs=42, batch_size=16)


def main() -> None:
    """Run the three scripts and log a summary."""
    started = time.perf_counter()
    trained = _step("train", train, **TRAINING, **COMMON)
    best = trained.save_dir / "weights" / "best.pt"
    validated = _step("val", val, weights=best, task="test", **COMMON)
    detected = _step(
        "detect", detect, weights=best, source=Path("datasets/shapes/images/test"), imgsz=COMMON["imgsz"], device="cpu"
    )
    metrics = validated.evaluation.metrics
    LOGGER.info(
        f"\ntrained, validated and detected in {time.perf_counter() - started:.0f} s\n"
        f"mAP50 {metrics.map50:.3f}, mAP50-95 {metrics.map:.3f} on {metrics.images} images not used in training\n"
        f"annotated images: {detected.save_dir}\n"
        f"curves and plots: {trained.save_dir} and {validated.save_dir}"
    )


def _step(name: str, script, **options):
    """Log the command that does the same, and run it."""
    options.update(project=FOLDER, name=name)
    words = " ".join(f"--{key.replace('_', '-')} {_short(value)}" for key, value in options.items())
    LOGGER.info(f"\n$ python {name}.py {words} --exist-ok\n")
    return script.run(**options, exist_ok=True)


def _short(value: object) -> str:
    """Return a value as on the command line, paths relative to the project folder."""
    return str(value).removeprefix(f"{ROOT}/")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    log.configure()
    sys.exit(run_guarded(main))
