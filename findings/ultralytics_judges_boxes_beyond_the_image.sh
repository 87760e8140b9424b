#!/bin/sh
# ultralytics 8.4.190 with torch 2.14.1, torchvision 0.29.1, numpy below 3.
#
# Guess: validation judges the boxes that prediction and `save_txt` deliver. These are clipped to the image, as labels
#   are, so a detection of an object that the image's border cuts has the IoU that its visible box has.
# Behaviour: validation compares boxes as they leave suppression, before they are clipped. What a box reaches beyond the
#   border counts as area that no label has, so its IoU falls although the same validation writes it as exactly the
#   label. mAP50-95 of such objects depends on something that no user of the detections ever sees. Training
#   chooses best.pt by these figures.
# Output seen:
#   x from 0: written as [0, 100, 60, 160], mAP50-95 0.995
#   x from -10: written as [0, 100, 60, 160], mAP50-95 0.796
#   x from -30: written as [0, 100, 60, 160], mAP50-95 0.398
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 'numpy<3' ultralytics==8.4.190
cat > "$folder/run.py" <<'PY'
import tempfile
from pathlib import Path

import torch
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import LOGGER

LOGGER.setLevel("ERROR")
SIDE = 320  # of the image, which is the network's input as well: nothing is scaled, nothing is padded


def judged(box, label):
    """What validation makes of one detection: mAP50-95, and the same box as written by save_txt."""
    folder = Path(tempfile.mkdtemp())
    options = {"save_txt": True, "plots": False, "mode": "val", "task": "detect"}
    validator = DetectionValidator(save_dir=folder, args=options)
    (folder / "labels").mkdir(exist_ok=True)
    images = type("Images", (), {"im_files": [str(folder / "image.jpg")]})()
    validator.dataloader = type("Loader", (), {"dataset": images})()
    validator.device = torch.device("cpu")
    network = type("Network", (), {"names": {0: "cell"}, "end2end": False})()
    validator.data = {"val": str(folder), "names": network.names}
    validator.init_metrics(network)
    left, top, right, bottom = label
    centered = torch.tensor([[(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]])
    batch = {
        "img": torch.zeros(1, 3, SIDE, SIDE),
        "cls": torch.zeros(1, 1),
        "bboxes": centered / SIDE,
        "batch_idx": torch.zeros(1),
        "ori_shape": [(SIDE, SIDE)],
        "ratio_pad": [((1.0, 1.0), (0.0, 0.0))],
        "im_file": [str(folder / "image.jpg")],
    }
    detections = {"bboxes": torch.tensor([box]), "conf": torch.tensor([0.9]), "cls": torch.zeros(1)}
    validator.update_metrics([detections], batch)
    figures = validator.get_stats()
    (row,) = (folder / "labels" / "image.txt").read_text().splitlines()
    x, y, w, h = (SIDE * float(number) for number in row.split()[1:5])
    return figures["metrics/mAP50-95(B)"], [round(v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]


label = [0.0, 100.0, 60.0, 160.0]  # an object that the image's left border cuts
for box in ([0.0, 100.0, 60.0, 160.0], [-10.0, 100.0, 60.0, 160.0], [-30.0, 100.0, 60.0, 160.0]):
    score, written = judged(box, label)
    print(f"x from {box[0]:.0f}: written as {written}, mAP50-95 {score:.3f}")
PY
TMPDIR="$folder" YOLO_CONFIG_DIR="$folder" YOLO_OFFLINE=true "$folder/venv/bin/python" "$folder/run.py" > "$folder/all"
grep "^x from" "$folder/all" | tee "$folder/seen"  # the rest are words about its settings
cat > "$folder/expected" <<'TXT'
x from 0: written as [0, 100, 60, 160], mAP50-95 0.995
x from -10: written as [0, 100, 60, 160], mAP50-95 0.796
x from -30: written as [0, 100, 60, 160], mAP50-95 0.398
TXT
diff "$folder/expected" "$folder/seen"
