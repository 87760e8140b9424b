"""Train the newest `ultralytics` with its defaults beside ours, and judge its detections by our metrics as well.

    python benchmarks/peer_ultralytics.py --python ENVIRONMENT/bin/python --data bccd.yaml --epochs 30 --seed 0
    python benchmarks/peer_ultralytics.py ... --start weights --weights yolov5n.pt
    python benchmarks/peer_ultralytics.py ... --start weights --peer-weights yolov5nu.pt

Its licence is not ours, so it is another program: it runs in an environment of its own, which --python names and which
this program neither makes nor changes, and files are exchanged. `--start weights` loads backbone and neck of an
official YOLOv5 file, as far as names and shapes match, into its own network; --peer-weights starts from a file of its
own.

Its validation suppresses at IoU 0.7, val.py at 0.6, and it compares boxes before they are clipped to the image, which
costs it points where objects reach the border (findings/ultralytics_judges_boxes_beyond_the_image.sh). Detections of
its best.pt are therefore taken at both, clipped, and their mAP is computed by our rules from our reading of the labels.
PROJECT/NAME gets peer.json and peer.csv with its own final figures, ours of both, its version and the seconds per epoch
(the median, validation included). It writes *.cache files beside the labels of the dataset.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.boxes import xywhn_to_xyxy  # noqa: E402
from utils.checkpoint import find_weights, read_checkpoint  # noqa: E402
from utils.config import DatasetSpec, EvalOptions, SplitOptions  # noqa: E402
from utils.datasets.splits import open_split  # noqa: E402
from utils.errors import ConfigError, UserError  # noqa: E402
from utils.files import write_json_atomically  # noqa: E402
from utils.metrics.average_precision import DetectionAccumulator, ImageResult  # noqa: E402
from utils.metrics.coco import coco_metrics  # noqa: E402
from utils.types import Detections  # noqa: E402

PROCESS = Path(__file__).with_name("peer_process.py")
PEER_IOU = 0.7  # of suppression in its validation, by default
MAX_DETECTIONS = 300


def peer_yaml(spec: DatasetSpec, split: str) -> dict:
    """Return a data yaml for the other program: absolute paths of train and of the split that is validated."""
    paths = {"train": list(map(str, spec.paths("train"))), "val": list(map(str, spec.paths(split)))}
    return {"path": str(spec.root), **paths, "names": dict(enumerate(spec.names))}


def write_state(weights: str, file: Path) -> str:
    """Write the weights of a YOLOv5 checkpoint as a plain dict of tensors; return the file."""
    torch.save(dict(read_checkpoint(find_weights(weights)).state), file)
    return str(file)


def results_of(rows: list[dict], ids: list[int], spec: DatasetSpec, split: str) -> list[ImageResult]:
    """Return labels and detections per image, in native pixels.

    Args:
        rows: Of predictions.json: file_name or image_id, category_id, bbox as xywh pixels from a corner, and score.
        ids: The category_id of each class.
        spec: The dataset.
        split: The split that was predicted.

    Returns:
        One result per image of our own reading of the split.

    Raises:
        ConfigError: An image name is not unique, or one was predicted that the split does not have.
    """
    dataset, classes = open_split(spec, split, SplitOptions()), {number: index for index, number in enumerate(ids)}
    by_name: dict[str, list[dict]] = {Path(path).stem: [] for path in dataset.paths}
    if len(by_name) != len(dataset):
        raise ConfigError(f"{split}: two images have one name in different folders, which predictions.json confuses")
    for row in rows:
        name = Path(str(row.get("file_name") or row["image_id"])).stem
        if name not in by_name:
            raise ConfigError(f"{name}: was predicted, and {split} has no such image")
        by_name[name].append(row)
    results = []
    for index, (path, found) in enumerate(zip(dataset.paths, by_name.values(), strict=True)):
        height, width = (int(side) for side in dataset.sizes[index])
        labels = dataset.labels(index)
        best = sorted(found, key=lambda row: -row["score"])[:MAX_DETECTIONS]
        xywh = torch.tensor([row["bbox"] for row in best], dtype=torch.float32).reshape(-1, 4)
        conf = torch.tensor([row["score"] for row in best], dtype=torch.float32)
        cls = torch.tensor([classes[row["category_id"]] for row in best], dtype=torch.int64)
        detections = Detections(torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), 1), conf, cls)
        xyxy = np.asarray(xywhn_to_xyxy(labels.xywhn, width, height), np.float32)
        results.append(ImageResult(index, path, (height, width), detections, labels.cls, xyxy))
    return results


def our_metrics(results: list[ImageResult], nc: int) -> dict[str, float]:
    """Return mAP by YOLOv5's rules and by COCO's, as val.py computes them."""
    accumulator = DetectionAccumulator(nc)
    for one in results:
        accumulator.update(one.detections, one.labels_cls, one.labels_xyxy)
    metrics, coco = accumulator.compute(), coco_metrics(results, nc)
    return {"map50": metrics.map50, "map": metrics.map, "coco50": coco.ap50, "coco": coco.ap}


def seconds_per_epoch(file: Path) -> float | None:
    """Return the median over the epochs of results.csv, whose column `time` counts from the start; None without it."""
    if not file.exists():
        return None
    with file.open(newline="", encoding="utf-8") as stream:
        times = [float(row["time"]) for row in csv.DictReader(stream, skipinitialspace=True)]
    return statistics.median(np.diff([0.0, *times]).tolist()) if times else None


def run_peer(python: str, job: dict, folder: Path) -> dict:
    """Run peer_process.py in the other environment, which may install nothing and write no settings elsewhere.

    Args:
        python: Its interpreter.
        job: What it does.
        folder: The run's folder.

    Returns:
        What it wrote.

    Raises:
        UserError: It cannot be started, or ended with an error.
    """
    file = folder / "job.json"
    write_json_atomically(file, job)
    (folder / "result.json").unlink(missing_ok=True)
    own = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(folder / "settings")}
    (folder / "settings").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    try:
        done = subprocess.run([python, str(PROCESS), str(file)], env=environment, cwd=folder, check=False)
    except OSError as error:
        raise UserError(f"--python {python}: cannot be started: {error.strerror}") from None
    if done.returncode or not (folder / "result.json").exists():
        raise UserError(
            f"--python {python}: ended with {done.returncode}, see its output above; it needs an environment that has "
            "ultralytics, which this program does not install"
        )
    return json.loads((folder / "result.json").read_text())


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of an environment that has ultralytics")
    parser.add_argument("--data", required=True, help="our data yaml")
    parser.add_argument("--epochs", type=int, required=True, help="0: evaluate the best.pt that is in the folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", choices=("scratch", "weights"), default="scratch")
    parser.add_argument("--weights", default="yolov5n.pt", help="YOLOv5 file of --start weights")
    parser.add_argument("--peer-weights", default="", help="--start weights: a file of its own instead")
    parser.add_argument("--model", default="yolov5n.yaml", help="its network")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--split", default="val")
    parser.add_argument("--project", default=str(ROOT / "runs" / "peer"))
    parser.add_argument("--name", default="", help="'' is ultralytics_DATA_START_SEED")
    options = parser.parse_args(argv)
    if options.peer_weights and options.start == "scratch":
        parser.error("--peer-weights: is a start from weights; add --start weights")
    if not options.epochs and options.start == "weights":
        parser.error("--epochs 0: trains nothing, so --start has no meaning; leave it out")
    return options


def measure(options: argparse.Namespace) -> dict:
    """Train, evaluate, write peer.json and peer.csv, and return what they hold."""
    spec = DatasetSpec.load(options.data)
    name = options.name or f"ultralytics_{Path(options.data).stem}_{options.start}_{options.seed}"
    folder = (Path(options.project) / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.yaml"
    data.write_text(yaml.safe_dump(peer_yaml(spec, options.split), sort_keys=False), encoding="utf-8")
    from_ours = options.start == "weights" and not options.peer_weights
    job = {
        **{key: getattr(options, key) for key in ("model", "epochs", "seed", "imgsz", "batch", "device", "workers")},
        "state": write_state(options.weights, folder / "start.pt") if from_ours else "",
        "peer_weights": str(Path(options.peer_weights).resolve()) if options.peer_weights else "",
        "data": str(data),
        "folder": str(folder),
        "split": "val",
        "ious": [PEER_IOU, EvalOptions.iou_thres],
    }
    found = run_peer(options.python, job, folder)
    record = {
        "program": "ultralytics",
        "version": found["version"],
        **{key: getattr(options, key) for key in ("epochs", "imgsz", "seed", "start", "model")},
        "data": Path(options.data).stem,
        **{key: found[key] for key in ("map50", "map", "transferred", "optimizer", "seconds") if key in found},
        "seconds_per_epoch": seconds_per_epoch(folder / "results.csv"),
    }
    for each in found["predictions"]:
        rows = json.loads(Path(each["file"]).read_text())
        ours = our_metrics(results_of(rows, each["ids"], spec, options.split), spec.nc)
        record |= {f"peer_{key}_iou{each['iou']:g}": each[key] for key in ("map50", "map")}
        record |= {f"ours_{key}_iou{each['iou']:g}": value for key, value in ours.items()}
    if not options.epochs:
        record |= {key: record[f"peer_{key}_iou{PEER_IOU:g}"] for key in ("map50", "map")}
        previous = folder / "peer.json"
        record = {**(json.loads(previous.read_text()) if previous.exists() else {}), **record}
    write_json_atomically(folder / "peer.json", record)
    with (folder / "peer.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(record))
        writer.writeheader()
        writer.writerow(record)
    return record


def lines_of(record: dict) -> list[str]:
    """Return what is printed: one line per way to count."""
    ious = [key.rpartition("iou")[2] for key in record if key.startswith("ours_map_iou")]
    lines = [f"ultralytics {record['version']}, own final validation: {record['map50']:.4f} / {record['map']:.4f}"]
    for iou in ious:
        own, ours = ((record[f"{who}_map50_iou{iou}"], record[f"{who}_map_iou{iou}"]) for who in ("peer", "ours"))
        texts = [
            f"{map50:.4f} / {map:.4f} by {whose}" for (map50, map), whose in ((own, "its metrics"), (ours, "ours"))
        ]
        lines.append(f"suppression at IoU {iou}: {', '.join(texts)}")
    return lines


def main() -> int:
    """Run, and return the exit code."""
    try:
        record = measure(parse_arguments())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(["mAP50 / mAP50-95", *lines_of(record)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
