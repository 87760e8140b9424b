"""What detect.py runs: every frame of a source predicted, and each result handed to the writers and views asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.registry import load_plugins
from utils.checkpoint import find_weights, read_checkpoint, strip
from utils.config import DetectConfig, PredictOptions
from utils.datasets.sources import FileSource, StreamSource, open_source
from utils.engine.prediction_views import ConsoleReporter, FeatureMaps, Window
from utils.engine.prediction_writers import Artist, CropWriter, CsvWriter, ImageWriter, JsonWriter, LabelWriter
from utils.engine.predictor import PredictionHook, Predictor, load_predictor, predict
from utils.errors import ConfigError
from utils.files import run_folder
from utils.log import LOGGER


@dataclass(frozen=True)
class Detection:
    """A detection run: what is detected by which network, and who sees it."""

    config: DetectConfig
    predictor: Predictor
    source: FileSource | StreamSource
    hooks: Sequence[PredictionHook]

    def run(self) -> None:
        """Predict until the source ends or a hook stops; files and streams are closed whatever happens."""
        try:
            self._predict_all()
        except KeyboardInterrupt:
            if not self.source.live:  # a camera has no other end: there, stopping is the normal way out
                raise
        finally:
            self.source.close()
            for hook in self.hooks:
                hook.close()

    def _predict_all(self) -> None:
        for prediction in predict(self.predictor, self.source, predict_options(self.config), self._before_frame):
            for hook in self.hooks:
                hook.after_frame(prediction)
            if any(hook.should_stop() for hook in self.hooks):
                return

    def _before_frame(self, frame) -> None:
        for hook in self.hooks:
            hook.before_frame(frame)


def detect(config: DetectConfig) -> Path:
    """Detect as `config` says and return the run folder. Raises UserError kinds."""
    if config.dnn:
        raise ConfigError("--dnn: ONNX files are not run here; give --weights a .pt file and leave --dnn away")
    load_plugins(config.plugin)
    source = open_source(config.source, vid_stride=config.vid_stride, stream_buffer=config.stream_buffer)
    predictor = load_predictor(config.weights, config.device, config.half, config.download)
    with run_folder(config.project, config.name, config.exist_ok) as save_dir:
        labels = LabelWriter(save_dir, config.save_conf) if config.save_txt else None
        hooks = [*build_hooks(config, save_dir, predictor), *([labels] if labels else [])]
        Detection(config, predictor, source, hooks).run()
        if labels:
            LOGGER.info(f"{labels.written} labels saved to {labels.folder}")
    LOGGER.info(f"Results saved to {save_dir}")
    if config.update:
        strip_copies(config.weights, config.download)
    return save_dir


def predict_options(config: DetectConfig) -> PredictOptions:
    """Return what detect.py's flags say about a prediction."""
    return PredictOptions(
        config.imgsz,
        config.conf_thres,
        config.iou_thres,
        config.max_det,
        config.classes,
        config.agnostic_nms,
        config.augment,
    )


def build_hooks(config: DetectConfig, save_dir: Path, predictor: Predictor) -> list[PredictionHook]:
    """Return the writers and views asked for, but for the label files.

    Args:
        config: The flags.
        save_dir: The run folder.
        predictor: The network whose feature maps may be written.

    Returns:
        One hook per output; what is not asked for is not in it.
    """
    artist = Artist(config.line_thickness, config.hide_labels, config.hide_conf)
    wanted: list[tuple[bool, Callable[[], PredictionHook]]] = [
        (True, ConsoleReporter),
        (not config.nosave, lambda: ImageWriter(save_dir, artist)),
        (config.save_crop, lambda: CropWriter(save_dir)),
        (config.save_csv, lambda: CsvWriter(save_dir)),
        (config.save_json, lambda: JsonWriter(save_dir)),
        (config.visualize, lambda: FeatureMaps(save_dir, predictor.model)),
        (config.view_img, lambda: Window(artist)),
    ]
    return [make() for is_wanted, make in wanted if is_wanted]


def strip_copies(weights: Sequence[str], download: bool) -> None:
    """Write a small copy beside each checkpoint that still carries its training state (`--update`).

    Args:
        weights: Checkpoints, or names of published ones.
        download: Fetch published weights that are not on disk.
    """
    for name in weights:
        path = find_weights(name, download=download)
        if read_checkpoint(path).training is None:
            LOGGER.info(f"{path}: carries no training state, nothing to strip")
            continue
        copy = strip(path, path.with_name(f"{path.stem}_stripped.pt"))
        LOGGER.info(f"{copy}: {path.name} without its training state, {copy.stat().st_size / 1e6:.1f} MB")
