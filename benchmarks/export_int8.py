"""What 8 bits cost each variant: mAP of checkpoints in torch and of their 8-bit files, on the same squares.

    python benchmarks/export_int8.py --data bccd.yaml --imgsz 320 --weights runs/compare/exp/runs/*/*/weights/best.pt

Each checkpoint is exported with `--int8` (calibrated on the train split) in ONNX and OpenVINO, and validated with
`val.py --square`. Prints one row per checkpoint: its parameters, mAP50-95 in torch, and what each file adds, in points.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import export  # noqa: E402
import val  # noqa: E402
from utils.checkpoint import read_checkpoint  # noqa: E402

FORMATS = ("onnx", "openvino")


def main() -> None:
    """Export and validate every checkpoint, and print the table."""
    options = arguments()
    logging.getLogger("yolo").setLevel(logging.ERROR)
    print("| weights | parameters | mAP50-95 in torch | ONNX, 8 bit | OpenVINO, 8 bit |")
    print("| --- | --- | --- | --- | --- |")
    for weights in options.weights:
        state = read_checkpoint(weights).state
        parameters = sum(tensor.numel() for tensor in state.values())
        with tempfile.TemporaryDirectory() as folder:
            base = mean_ap(weights, options, folder)
            losses = [base - mean_ap(quantized(weights, name, options, folder), options, folder) for name in FORMATS]
        cells = " | ".join(f"{-100 * loss:+.2f}" for loss in losses)
        print(f"| {weights} | {parameters:,} | {100 * base:.2f} | {cells} |", flush=True)


def quantized(weights: str, name: str, options: argparse.Namespace, folder: str) -> str:
    """Return the 8-bit file of a checkpoint."""
    (path,) = export.run(
        weights=weights, int8=options.data, include=name, imgsz=options.imgsz, output=folder, runtime_check=False
    )
    return str(path)


def mean_ap(weights: str, options: argparse.Namespace, folder: str) -> float:
    """Return mAP50-95 on the val split, every image in a square."""
    results, _, _ = val.run(
        weights=weights, data=options.data, imgsz=options.imgsz, square=True, workers=0, project=folder
    )
    return float(results[3])


def arguments() -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", required=True, help="checkpoints")
    parser.add_argument("--data", required=True, help="dataset yaml")
    parser.add_argument("--imgsz", type=int, default=640)
    return parser.parse_args()


if __name__ == "__main__":
    main()
