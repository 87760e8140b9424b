"""Detect objects in pictures, videos, folders, cameras and streams.

    python detect.py --weights runs/train/exp/weights/best.pt --source pictures/

Results go to runs/detect/exp, exp2, ...: annotated pictures and, as asked, label files, crops and tables.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from utils.cli import run_script
from utils.config import DetectConfig, from_options, parse
from utils.errors import ConfigError

DESCRIPTION = "Detect objects in pictures, videos, folders, cameras and streams."


def parse_opt(argv: Sequence[str] | None = None) -> DetectConfig:
    """Return the options of a command line (without the program's name)."""
    return parse(DetectConfig, argv, description=DESCRIPTION, prog="detect.py")


def run(**options: object) -> Path:
    """Detect with the given options (named as the flags, with underscores) and return the run folder."""
    return main(from_options(DetectConfig, **options))


def main(config: DetectConfig) -> Path:
    """Detect as `config` says and return the run folder. Raises UserError kinds."""
    from models.registry import load_plugins
    from utils.datasets.sources import open_source
    from utils.engine.predictor import load_predictor
    from utils.files import run_folder
    from utils.log import LOGGER

    if config.dnn:
        raise ConfigError("--dnn: ONNX files are not run here; give --weights a .pt file and leave --dnn away")
    load_plugins(config.plugin)
    source = open_source(config.source, vid_stride=config.vid_stride, stream_buffer=config.stream_buffer)
    predictor = load_predictor(config.weights, config.device, config.half, config.download)
    with run_folder(config.project, config.name, config.exist_ok) as save_dir:
        _write_all(config, predictor, source, save_dir)
    LOGGER.info(f"Results saved to {save_dir}")
    if config.update:
        _strip_copies(config.weights, config.download)
    return save_dir


def _write_all(config: DetectConfig, predictor, source, save_dir: Path) -> None:
    """Detect in all of `source` and leave the results in save_dir; whatever happens, files and streams are closed."""
    from utils.log import LOGGER

    observers = _observers(config, save_dir, predictor)
    try:
        _detect(config, predictor, source, observers)
    except KeyboardInterrupt:
        if not source.live:  # a camera has no other end: there, stopping is the normal way out
            raise
    finally:
        source.close()
        for observer in observers.values():
            observer.close()
    if "labels" in observers:
        LOGGER.info(f"{observers['labels'].written} labels saved to {observers['labels'].folder}")


def _detect(config: DetectConfig, predictor, source, observers: dict) -> None:
    """Show every prediction to every observer, until the source ends or the window is closed."""
    from utils.engine.predictor import predict

    features, window = observers.get("features"), observers.get("window")
    for prediction in predict(
        predictor,
        source,
        imgsz=config.imgsz,
        conf_thres=config.conf_thres,
        iou_thres=config.iou_thres,
        max_det=config.max_det,
        classes=config.classes,
        agnostic=config.agnostic_nms,
        augment=config.augment,
        before_frame=features.before_frame if features else None,
    ):
        for observer in observers.values():
            observer(prediction)
        if window and window.closed:
            return


def _observers(config: DetectConfig, save_dir: Path, predictor) -> dict:
    """Return what looks at each prediction, by name; what is not asked for is not in it."""
    from utils.engine import prediction_views as views
    from utils.engine import prediction_writers as writers

    artist = writers.Artist(config.line_thickness, config.hide_labels, config.hide_conf)
    wanted = {
        "console": (True, lambda: views.ConsoleReporter()),
        "pictures": (not config.nosave, lambda: writers.PictureWriter(save_dir, artist)),
        "labels": (config.save_txt, lambda: writers.LabelWriter(save_dir, config.save_conf)),
        "crops": (config.save_crop, lambda: writers.CropWriter(save_dir)),
        "csv": (config.save_csv, lambda: writers.CsvWriter(save_dir)),
        "json": (config.save_json, lambda: writers.JsonWriter(save_dir)),
        "features": (config.visualize, lambda: views.FeatureMaps(save_dir, predictor.model)),
        "window": (config.view_img, lambda: views.Window(artist)),
    }
    return {name: make() for name, (on, make) in wanted.items() if on}


def _strip_copies(weights: Sequence[str], download: bool) -> None:
    """--update: beside each checkpoint that still carries its training state, write a small copy without it."""
    from utils.checkpoint import find_weights, read_checkpoint, strip
    from utils.log import LOGGER

    for name in weights:
        path = find_weights(name, download=download)
        if read_checkpoint(path).training is None:
            LOGGER.info(f"{path}: carries no training state, nothing to strip")
            continue
        copy = strip(path, path.with_name(f"{path.stem}_stripped.pt"))
        LOGGER.info(f"{copy}: {path.name} without its training state, {copy.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(run_script(main, parse_opt))
