#!/usr/bin/env bash
# yolov5 7.0.14 (YOLOv5's code as a package): letterbox() and scale_boxes(), on Python 3.11.
#
# Guess: scale_boxes() is the inverse of letterbox(). A block of pixels that the network would box exactly is mapped
# back to where it lies in the image.
# Seen: if the border of an axis is odd, the image is put behind the smaller half in whole pixels (13 of 27), while the
# border that is returned, and the one that scale_boxes() computes by itself, is exactly half (13.5). So every box
# comes back half a pixel too high or too far to the left, in val.py and in detect.py. val.py also moves its labels
# into the input and back by 13.5, so they stay right and the boxes alone are shifted: 0.34645 instead of 0.34698
# mAP50-95 of yolov5n on 128 images of COCO, of which 56 have an odd border.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.8.0 torchvision==0.23.0 numpy==1.26.4 opencv-python-headless==4.11.0.86 \
    pandas==2.2.3 pyyaml==6.0.2 requests==2.32.3 tqdm==4.67.1 matplotlib==3.10.0 seaborn==0.13.2 scipy==1.15.1 \
    psutil==6.1.1 py-cpuinfo==9.0.0 setuptools==75.8.0 pillow==11.1.0
"$folder/venv/bin/pip" install -q --no-deps yolov5==7.0.14 ultralytics==8.3.0 ultralytics-thop==2.0.13
cd "$folder"
HOME="$folder" YOLO_CONFIG_DIR="$folder" YOLO_OFFLINE=true YOLO_AUTOINSTALL=false "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from yolov5.utils.augmentations import letterbox
from yolov5.utils.general import scale_boxes

image = np.zeros((101, 224, 3), np.uint8)
image[20:60, 50:90] = 255


def seen(canvas):
    """The block's box in the network input, as a perfect network would give it."""
    rows, columns = np.nonzero((canvas == 255).all(2))
    return torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)


canvas, ratio, pad = letterbox(image, (128, 256), auto=False, scaleup=False)  # as val.py
mapped = scale_boxes(canvas.shape[:2], seen(canvas), image.shape[:2], (ratio, pad))
print("val: border returned", tuple(map(float, pad)), "block in the input", seen(canvas)[0].tolist(), "back", mapped[0].tolist())
assert tuple(pad) == (16.0, 13.5) and seen(canvas)[0].tolist() == [66, 33, 106, 73]
assert mapped[0].tolist() == [50, 19.5, 90, 59.5]  # the block is at 50, 20, 90, 60

canvas, _, _ = letterbox(image, 224, auto=True, stride=32)  # as detect.py
mapped = scale_boxes(canvas.shape[:2], seen(canvas), image.shape[:2])
print("detect: input", canvas.shape[:2], "block in it", seen(canvas)[0].tolist(), "back", mapped[0].tolist())
assert mapped[0].tolist() == [50, 19.5, 90, 59.5]
print("holds")
PYTHON
