"""The same tracker with the names of v5 and v6.0: attempt_load, four values per item, plot_one_box."""

import argparse
import os
import sys
from pathlib import Path

import cv2
import torch

FILE = Path(__file__).resolve()
for folder in (str(FILE.parent), os.environ.get("YOLOV5_ROOT", str(FILE.parents[2]))):
    if folder not in sys.path:
        sys.path.append(folder)

from iou_tracker import IouTracker, written  # noqa: E402

from models.experimental import attempt_load  # noqa: E402
from utils.datasets import LoadImages, LoadStreams  # noqa: E402
from utils.general import (  # noqa: E402
    apply_classifier,
    check_img_size,
    check_imshow,
    non_max_suppression,
    scale_coords,
    set_logging,
    xyxy2xywh,
)
from utils.google_utils import attempt_download  # noqa: E402
from utils.plots import plot_one_box  # noqa: E402
from utils.torch_utils import load_classifier, select_device, time_synchronized  # noqa: E402


def detect(opt):
    out, source, imgsz = opt.output, opt.source, opt.img_size
    webcam = source == "0" or source.startswith(("rtsp", "http")) or source.endswith(".txt")
    set_logging()
    device = select_device(opt.device)
    os.makedirs(out, exist_ok=True)
    half = device.type != "cpu"
    attempt_download(opt.weights)
    model = attempt_load(opt.weights, map_location=device)
    stride = int(model.stride.max())
    imgsz = check_img_size(imgsz, s=stride)
    names = model.module.names if hasattr(model, "module") else model.names
    if half:
        model.half()
    classify = False
    if classify:
        modelc = load_classifier(name="resnet101", n=2)
    if webcam:
        check_imshow()
        dataset = LoadStreams(source, img_size=imgsz, stride=stride)
    else:
        dataset = LoadImages(source, img_size=imgsz, stride=stride)
    if device.type != "cpu":
        model(torch.zeros(1, 3, imgsz, imgsz).to(device).type_as(next(model.parameters())))
    tracker, rows, vid_writer = IouTracker(), [], None
    for frame_idx, (path, img, im0s, vid_cap) in enumerate(dataset):
        img = torch.from_numpy(img).to(device)
        img = img.half() if half else img.float()
        img /= 255.0
        if img.ndimension() == 3:
            img = img.unsqueeze(0)
        t1 = time_synchronized()
        with torch.no_grad():
            pred = model(img, augment=opt.augment)[0]
        pred = non_max_suppression(
            pred, opt.conf_thres, opt.iou_thres, classes=opt.classes, agnostic=opt.agnostic_nms, max_det=1000
        )
        t2 = time_synchronized()
        if classify:
            pred = apply_classifier(pred, modelc, img, im0s)
        for i, det in enumerate(pred):
            p, im0 = (path[i], im0s[i].copy()) if webcam else (path, im0s)
            if len(det):
                det[:, :4] = scale_coords(img.shape[2:], det[:, :4], im0.shape).round()
                outputs = tracker.update(xyxy2xywh(det[:, :4]).cpu(), det[:, 5].cpu())
                for (identity, box, cls), (*xyxy, conf, _) in zip(outputs, det.tolist(), strict=True):
                    plot_one_box(xyxy, im0, label=f"{identity} {names[int(cls)]}", color=(0, 0, 255), line_thickness=2)
                    rows.append([frame_idx + 1, identity, *box, conf, cls])
            print(f"{Path(p).name}: {len(det)} ({t2 - t1:.3f}s)")
            if vid_cap:
                if vid_writer is None:
                    fps = vid_cap.get(cv2.CAP_PROP_FPS)
                    w, h = int(vid_cap.get(cv2.CAP_PROP_FRAME_WIDTH)), int(vid_cap.get(cv2.CAP_PROP_FRAME_HEIGHT))
                    save_path = str(Path(out) / Path(p).with_suffix(".mp4").name)
                    vid_writer = cv2.VideoWriter(save_path, cv2.VideoWriter_fourcc(*"mp4v"), fps, (w, h))
                vid_writer.write(im0)
            else:
                cv2.imwrite(str(Path(out) / Path(p).name), im0)
    if vid_writer is not None:
        vid_writer.release()
    written(Path(out) / "tracks.txt", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=str, default="yolov5n.pt")
    parser.add_argument("--source", type=str, default="0")
    parser.add_argument("--output", type=str, default="inference/output")
    parser.add_argument("--img-size", type=int, default=640)
    parser.add_argument("--conf-thres", type=float, default=0.25)
    parser.add_argument("--iou-thres", type=float, default=0.45)
    parser.add_argument("--device", default="")
    parser.add_argument("--classes", nargs="+", type=int)
    parser.add_argument("--agnostic-nms", action="store_true")
    parser.add_argument("--augment", action="store_true")
    detect(parser.parse_args())
