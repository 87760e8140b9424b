"""Writes docs/gallery/: what the programs draw, from shapes that are drawn here. No image of anybody else is used.

    python tools/gallery.py

Trains YOLOv5n and its CBAM variant on drawn scenes for some minutes on a CPU, and keeps small copies of the results.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
FOLDER = ROOT / "docs" / "gallery"
COMMON = {"data": "data/shapes.yaml", "imgsz": 128, "workers": 1, "device": "cpu"}
TRAINING = {"hyp": "hyp.shapes.yaml", "batch_size": 16}
WIDTH, QUALITY = 760, 68
BYTES = 400_000  # of all images together


def main() -> None:
    """Run the programs in a folder that is removed, and write the small copies."""
    with tempfile.TemporaryDirectory() as folder:
        for name, source in drawn_files(Path(folder)).items():
            small_copy(source, FOLDER / f"{name}.jpg")
    total = sum(file.stat().st_size for file in FOLDER.glob("*.jpg"))
    print(f"{FOLDER}: {total / 1000:.0f} kB")
    if total > BYTES:
        raise SystemExit(f"the images of the gallery have {total} bytes, {BYTES} at most; lower QUALITY")


def drawn_files(folder: Path) -> dict[str, Path]:
    """Return what the programs draw by its name in the gallery; all of it lies in a folder."""
    import compare
    import detect
    import train
    import val
    from utils.datasets.check import run as check

    checked = check(data=COMMON["data"], imgsz=COMMON["imgsz"], project=str(folder), name="check")
    trained = train.run(
        cfg="models/yolov5n_CBAM.yaml", epochs=42, project=str(folder), name="train", **TRAINING, **COMMON
    )
    best = trained.save_dir / "weights" / "best.pt"
    validated = val.run(weights=str(best), task="test", project=str(folder), name="val", **COMMON)
    images = ROOT / "datasets" / "shapes" / "images" / "test"
    first = sorted(images.glob("*.jpg"))[0]
    detected = detect.run(
        weights=str(best), source=str(first), imgsz=COMMON["imgsz"], device="cpu", project=str(folder), name="detect"
    )
    study = compare.run(
        cfg=["yolov5n.yaml", "yolov5n_CBAM.yaml"], seeds=[3], epochs=6, cost_seconds=2, project=str(folder),
        name="study", **TRAINING, **COMMON,
    )  # fmt: skip
    return {
        "labels": checked.folder / "sheet_train.jpg",
        "check": checked.folder / "check.png",
        "augmented": trained.save_dir / "train_batch0.jpg",
        "results": trained.save_dir / "results.png",
        "confusion_matrix": validated.save_dir / "confusion_matrix.png",
        "precision_recall": validated.save_dir / "PR_curve.png",
        "predictions": validated.save_dir / "val_batch0_pred.jpg",
        "detection": detected.save_dir / first.name,
        "comparison": study.folder / "accuracy_latency.png",
        "class_differences": study.folder / "class_differences.png",
    }


def small_copy(source: Path, target: Path) -> None:
    """Write an image as a JPEG that is at most WIDTH pixels wide, without anything beside its pixels."""
    from PIL import Image

    with Image.open(source) as image:
        copy = image.convert("RGB")
        copy.thumbnail((WIDTH, WIDTH))
        target.parent.mkdir(parents=True, exist_ok=True)
        copy.save(target, quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
