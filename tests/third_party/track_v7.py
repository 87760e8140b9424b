"""The same tracker with the names of v6.2 and v7: dataloaders, scale_boxes, Profile, smart_inference_mode."""

import argparse
import os
import sys
from pathlib import Path

import torch

FILE = Path(__file__).resolve()
for folder in (str(FILE.parent), os.environ.get("YOLOV5_ROOT", str(FILE.parents[2]))):
    if folder not in sys.path:
        sys.path.append(folder)

from iou_tracker import IouTracker, written  # noqa: E402

from models.common import DetectMultiBackend  # noqa: E402
from utils.dataloaders import IMG_FORMATS, VID_FORMATS, LoadImages, LoadStreams  # noqa: E402
from utils.general import (  # noqa: E402
    LOGGER,
    Profile,
    check_file,
    check_img_size,
    check_imshow,
    colorstr,
    cv2,
    increment_path,
    non_max_suppression,
    scale_boxes,
    xyxy2xywh,
)
from utils.plots import Annotator, colors  # noqa: E402
from utils.torch_utils import select_device, smart_inference_mode  # noqa: E402


@smart_inference_mode()
def run(weights, source, imgsz, conf_thres, iou_thres, device, project, name):
    is_file = Path(source).suffix[1:] in (*IMG_FORMATS, *VID_FORMATS)
    if is_file:
        source = check_file(source)
    save_dir = increment_path(Path(project) / name, exist_ok=False, mkdir=True)
    device = select_device(device)
    model = DetectMultiBackend(weights, device=device, dnn=False, data=None, fp16=False)
    stride, names, pt = model.stride, model.names, model.pt
    imgsz = check_img_size((imgsz, imgsz), s=stride)
    webcam = not is_file and not Path(source).is_dir()
    if webcam:
        check_imshow(warn=True)
        dataset = LoadStreams(source, img_size=imgsz, stride=stride, auto=pt, vid_stride=1)
    else:
        dataset = LoadImages(source, img_size=imgsz, stride=stride, auto=pt, vid_stride=1)
    model.warmup(imgsz=(1 if pt else 1, 3, *imgsz))
    tracker, rows, seen, dt, writer = IouTracker(), [], 0, (Profile(), Profile(), Profile()), None
    for path, im, im0s, vid_cap, s in dataset:
        with dt[0]:
            im = torch.from_numpy(im).to(model.device)
            im = im.half() if model.fp16 else im.float()
            im /= 255
            if len(im.shape) == 3:
                im = im[None]
        with dt[1]:
            pred = model(im, augment=False, visualize=False)
        with dt[2]:
            pred = non_max_suppression(pred, conf_thres, iou_thres, None, False, max_det=1000)
        for i, det in enumerate(pred):
            seen += 1
            p, im0 = (path[i], im0s[i].copy()) if webcam else (path, im0s.copy())
            annotator = Annotator(im0, line_width=2, example=str(names))
            if len(det):
                det[:, :4] = scale_boxes(im.shape[2:], det[:, :4], im0.shape).round()
                outputs = tracker.update(xyxy2xywh(det[:, :4]).cpu(), det[:, 5].cpu())
                for (identity, box, cls), (*xyxy, conf, _) in zip(outputs, det, strict=True):
                    annotator.box_label(xyxy, f"{identity} {names[int(cls)]} {conf:.2f}", color=colors(cls, True))
                    rows.append([seen, identity, *box, float(conf), cls])
            im0 = annotator.result()
            if vid_cap:
                if writer is None:
                    size = int(vid_cap.get(cv2.CAP_PROP_FRAME_WIDTH)), int(vid_cap.get(cv2.CAP_PROP_FRAME_HEIGHT))
                    file = str((save_dir / Path(p).name).with_suffix(".mp4"))
                    fps = vid_cap.get(cv2.CAP_PROP_FPS)
                    writer = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
                writer.write(im0)
            else:
                cv2.imwrite(str(save_dir / Path(p).name), im0)
        LOGGER.info(f"{s}{'' if len(det) else '(no detections), '}{dt[1].dt * 1e3:.1f}ms")
    if writer is not None:
        writer.release()
    speeds = tuple(x.t / max(seen, 1) * 1e3 for x in dt)
    LOGGER.info("Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image" % speeds)
    LOGGER.info(f"Results saved to {colorstr('bold', save_dir)}")
    written(save_dir / "tracks.txt", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", nargs="+", type=str, default="yolov5n.pt")
    parser.add_argument("--source", type=str, default="0")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--conf-thres", type=float, default=0.25)
    parser.add_argument("--iou-thres", type=float, default=0.45)
    parser.add_argument("--device", default="")
    parser.add_argument("--project", default="runs/track")
    parser.add_argument("--name", default="exp")
    run(**vars(parser.parse_args()))
