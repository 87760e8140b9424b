"""What benchmarks/peer_ultralytics.py starts in the other environment: a training of `ultralytics`, and predictions.

    ENVIRONMENT/bin/python benchmarks/peer_process.py JOB.json

Nothing of this project is imported here, and nothing of `ultralytics` anywhere else in it.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Do what the job file says, and write result.json beside it."""
    file = Path(sys.argv[1])
    job = json.loads(file.read_text())
    import ultralytics

    result = {"version": ultralytics.__version__}
    if job["epochs"]:
        result |= train(job)
    result["predictions"] = [predict(job, iou) for iou in job["ious"]]
    (file.parent / "result.json").write_text(json.dumps(result))


def train(job: dict) -> dict:
    """Train with the defaults, and return the figures of its own final validation of best.pt."""
    import torch
    from ultralytics import YOLO

    torch.manual_seed(job["seed"])  # its trainer seeds itself later, but layers without given weights are drawn here
    model = YOLO(job["peer_weights"] or job["model"])
    transferred = transfer(model, job["state"]) if job["state"] else None
    from_weights = bool(job["peer_weights"] or job["state"])
    start = time.perf_counter()
    found = model.train(**common(job), epochs=job["epochs"], seed=job["seed"], exist_ok=True, pretrained=from_weights)
    seconds = time.perf_counter() - start
    return {
        "map50": float(found.box.map50),
        "map": float(found.box.map),
        "seconds": seconds,
        "transferred": transferred,
        "own_iou": float(model.trainer.args.iou),
        "optimizer": type(model.trainer.optimizer).__name__,
    }


def transfer(model: object, file: str) -> list[int]:
    """Load the tensors of a state dict that fit by name and shape; return how many of how many."""
    import torch

    own, given = model.model.state_dict(), torch.load(file, weights_only=True)
    fitting = {name: value.float() for name, value in given.items() if name in own and own[name].shape == value.shape}
    model.model.load_state_dict(fitting, strict=False)
    model.ckpt = {"model": model.model}  # otherwise its trainer builds another network from the yaml
    return [len(fitting), len(own)]


def predict(job: dict, iou: float) -> dict:
    """Validate best.pt with an IoU of suppression; its predictions.json is read by the program that started this."""
    from ultralytics import YOLO

    seen = {}
    model = YOLO(str(Path(job["folder"]) / "weights" / "best.pt"))
    model.add_callback("on_val_end", lambda validator: seen.update(ids=list(validator.class_map)))
    job = {**job, "folder": str(Path(job["folder"]) / f"val_{iou:g}")}
    found = model.val(**common(job), split=job["split"], iou=iou, save_json=True, exist_ok=True)
    file = str(Path(job["folder"]) / "predictions.json")
    return {"iou": iou, "map50": float(found.box.map50), "map": float(found.box.map), "file": file, "ids": seen["ids"]}


def common(job: dict) -> dict:
    """Return the arguments of training and validation: where, of what size, and nothing that changes results."""
    folder = Path(job["folder"])
    same = {name: job[name] for name in ("data", "imgsz", "batch", "device", "workers")}
    return {**same, "project": str(folder.parent), "name": folder.name, "plots": False}


if __name__ == "__main__":
    main()
