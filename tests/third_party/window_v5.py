"""The same window program with the names of v5 and v6.0: letterbox of utils.datasets, plot_one_box.

A timer hands one frame of OpenCV (BGR) at a time to `detect`, which returns what the window shows.
"""

import os
import random
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

FILE = Path(__file__).resolve()
YOLOV5 = os.environ.get("YOLOV5_ROOT", str(FILE.parents[2]))
if YOLOV5 not in sys.path:
    sys.path.append(YOLOV5)

from models.experimental import attempt_load  # noqa: E402
from utils.datasets import letterbox  # noqa: E402
from utils.general import check_img_size, non_max_suppression, scale_coords  # noqa: E402
from utils.plots import plot_one_box  # noqa: E402
from utils.torch_utils import select_device  # noqa: E402


class Window:
    """Model, settings of the controls, and the detection of a frame."""

    def __init__(self, weights, imgsz=640, device="cpu"):
        self.device = select_device(device)
        self.half = self.device.type != "cpu"
        self.model = attempt_load(weights, map_location=self.device)
        self.stride = int(self.model.stride.max())
        self.imgsz = check_img_size(imgsz, s=self.stride)
        if self.half:
            self.model.half()
        self.names = self.model.module.names if hasattr(self.model, "module") else self.model.names
        self.palette = [[random.randint(0, 255) for _ in range(3)] for _ in self.names]
        self.conf_thres, self.iou_thres, self.classes = 0.25, 0.45, None

    def to_tensor(self, frame):
        img = letterbox(frame, self.imgsz, stride=self.stride, auto=True)[0]
        img = img[:, :, ::-1].transpose(2, 0, 1)
        img = torch.from_numpy(np.ascontiguousarray(img)).to(self.device)
        img = img.half() if self.half else img.float()
        img /= 255.0
        return img.unsqueeze(0) if img.ndimension() == 3 else img

    @torch.no_grad()
    def detect(self, frame):
        """Return the frame with boxes, and [name, confidence, left, top, right, bottom] of each."""
        showimg = frame.copy()
        img = self.to_tensor(frame)
        pred = self.model(img, augment=False)[0]
        pred = non_max_suppression(pred, self.conf_thres, self.iou_thres, classes=self.classes, agnostic=False)
        found = []
        for det in pred:
            if not len(det):
                continue
            det[:, :4] = scale_coords(img.shape[2:], det[:, :4], showimg.shape).round()
            for *xyxy, conf, cls in reversed(det):
                name = self.names[int(cls)]
                found.append([name, round(float(conf), 2), *(int(value) for value in xyxy)])
                plot_one_box(xyxy, showimg, label=f"{name} {conf:.2f}", color=self.palette[int(cls)], line_thickness=2)
        return showimg, found

    def for_display(self, frame):
        """Return RGB bytes as a window takes them."""
        return cv2.cvtColor(cv2.resize(frame, (640, 480)), cv2.COLOR_BGR2RGB).tobytes()


def main():
    weights, image, output = sys.argv[1:4]
    window = Window(weights)
    shown, found = window.detect(cv2.imread(image))
    cv2.imwrite(output, shown)
    assert len(window.for_display(shown)) == 640 * 480 * 3
    for row in found:
        print(*row)


if __name__ == "__main__":
    main()
