"""A tracker on a detector, in the style of the scripts that follow objects with YOLOv5 v6.1."""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.backends.cudnn as cudnn

FILE = Path(__file__).resolve()
YOLOV5 = os.environ.get("YOLOV5_ROOT", str(FILE.parents[2]))
for folder in (str(FILE.parent), YOLOV5):
    if folder not in sys.path:
        sys.path.append(folder)

from iou_tracker import IouTracker, written  # noqa: E402

from models.common import DetectMultiBackend  # noqa: E402
from utils.datasets import VID_FORMATS, LoadImages, LoadStreams  # noqa: E402
from utils.general import (  # noqa: E402
    LOGGER,
    check_img_size,
    check_imshow,
    check_requirements,
    cv2,
    increment_path,
    non_max_suppression,
    print_args,
    scale_coords,
    xyxy2xywh,
)
from utils.plots import Annotator, colors, save_one_box  # noqa: E402
from utils.torch_utils import select_device, time_sync  # noqa: E402


@torch.no_grad()
def detect(opt):
    webcam = opt.source.isnumeric() or opt.source.endswith(".txt") or opt.source.lower().startswith("rtsp")
    save_dir = increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok)
    save_dir.mkdir(parents=True, exist_ok=True)
    device = select_device(opt.device)
    half = opt.half and device.type != "cpu"
    model = DetectMultiBackend(opt.weights, device=device, dnn=False)
    stride, names, pt = model.stride, model.names, model.pt
    imgsz = check_img_size([opt.imgsz, opt.imgsz], s=stride)
    if webcam:
        check_imshow()
        cudnn.benchmark = True
        dataset = LoadStreams(opt.source, img_size=imgsz, stride=stride, auto=pt)
    else:
        dataset = LoadImages(opt.source, img_size=imgsz, stride=stride, auto=pt)
    trackers = [IouTracker() for _ in range(len(dataset) if webcam else 1)]
    model.warmup(imgsz=(1, 3, *imgsz))
    seconds, seen, rows, writer = [0.0, 0.0, 0.0], 0, [], None
    for frame_idx, (path, im, im0s, vid_cap, s) in enumerate(dataset):
        t1 = time_sync()
        im = torch.from_numpy(im).to(device)
        im = im.half() if half else im.float()
        im /= 255.0
        if len(im.shape) == 3:
            im = im[None]
        t2 = time_sync()
        seconds[0] += t2 - t1
        pred = model(im, augment=opt.augment, visualize=False)
        t3 = time_sync()
        seconds[1] += t3 - t2
        pred = non_max_suppression(pred, opt.conf_thres, opt.iou_thres, opt.classes, opt.agnostic_nms, max_det=1000)
        seconds[2] += time_sync() - t3
        for i, det in enumerate(pred):
            seen += 1
            if webcam:
                p, im0 = path[i], im0s[i].copy()
                s += f"{i}: "
            else:
                p, im0 = path, im0s.copy()
            s += "{:g}x{:g} ".format(*im.shape[2:])
            annotator = Annotator(im0, line_width=2, pil=not str(names).isascii())
            if det is not None and len(det):
                det[:, :4] = scale_coords(im.shape[2:], det[:, :4], im0.shape).round()
                for c in det[:, -1].unique():
                    n = (det[:, -1] == c).sum()
                    s += f"{n} {names[int(c)]}{'s' * (n > 1)}, "
                xywhs, confs, clss = xyxy2xywh(det[:, 0:4]), det[:, 4], det[:, 5]
                outputs = trackers[i].update(xywhs.cpu(), clss.cpu())
                for (identity, box, cls), conf, xyxy in zip(outputs, confs, det[:, :4], strict=True):
                    label = f"{identity} {names[int(cls)]} {conf:.2f}"
                    annotator.box_label(xyxy, label, color=colors(int(cls), True))
                    rows.append([frame_idx + 1, identity, *box, float(conf), cls])
                    if opt.save_crop:
                        save_one_box(xyxy, im0s, file=save_dir / "crops" / f"{identity}.jpg", BGR=True)
            im0 = annotator.result()
            if vid_cap and writer is None:
                fps = vid_cap.get(cv2.CAP_PROP_FPS)
                size = int(vid_cap.get(cv2.CAP_PROP_FRAME_WIDTH)), int(vid_cap.get(cv2.CAP_PROP_FRAME_HEIGHT))
                target = str((save_dir / Path(p).name).with_suffix(".mp4"))
                writer = cv2.VideoWriter(target, cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
            if writer is not None:
                writer.write(im0)
            elif dataset.mode == "image":
                cv2.imwrite(str(save_dir / Path(p).name), im0)
            LOGGER.info(f"{s}Done. ({time_sync() - t1:.3f}s)")
    if writer is not None:
        writer.release()
    speed = tuple(t / max(seen, 1) * 1e3 for t in seconds)
    LOGGER.info("Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image" % speed)
    written(save_dir / "tracks.txt", rows)
    print(f"Results saved to {save_dir}")


def parse_opt():
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", nargs="+", default="yolov5n.pt")
    parser.add_argument("--source", default="0")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--conf-thres", type=float, default=0.25)
    parser.add_argument("--iou-thres", type=float, default=0.45)
    parser.add_argument("--device", default="")
    parser.add_argument("--classes", nargs="+", type=int)
    parser.add_argument("--agnostic-nms", action="store_true")
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--save-crop", action="store_true")
    parser.add_argument("--project", default="runs/track")
    parser.add_argument("--name", default="exp")
    parser.add_argument("--exist-ok", action="store_true")
    opt = parser.parse_args()
    print_args(FILE.stem, opt)
    return opt


if __name__ == "__main__":
    check_requirements(exclude=("tensorboard", "thop"))
    assert "mp4" in VID_FORMATS
    detect(parse_opt())
