"""What detect.py runs: every frame of a source predicted, and each result handed to the writers and views asked for."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast, overload

from models.registry import load_plugins
from utils.background import BackgroundWorker
from utils.checkpoint import find_weights, read_checkpoint, strip
from utils.class_choice import class_ids
from utils.compilation import CompileOptions, compiled_network
from utils.config import DetectConfig, PredictOptions, Slicing
from utils.datasets.source_entries import Failure
from utils.datasets.sources import FileSource, Frame, StreamSource, open_source
from utils.engine.prediction_heat_maps import HeatMapWriter
from utils.engine.prediction_tables import CountsWriter, CsvWriter, JsonWriter
from utils.engine.prediction_views import ConsoleReporter, FeatureMaps, Window
from utils.engine.prediction_writers import Artist, CropWriter, FrameWriter, ImageWriter, LabelWriter
from utils.engine.predictor import Prediction, PredictionHook, Predictor, load_predictor, predict
from utils.engine.step_profile import FrameProfile
from utils.errors import DataError, PartialError, UserError
from utils.files import DISK_ERRORS, run_folder
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts
from utils.runtimes.network import refuse_for_exported

_MAX_LISTED = 20


@dataclass(frozen=True)
class DetectionOutcome(Sequence[Prediction]):
    """What a detection run found and wrote, and the inputs that failed: the sequence of its predictions.

    Attributes:
        save_dir: The run folder.
        inputs: Number of inputs.
        failures: The inputs that failed, and why.
        predictions: One per frame, without the frames' pixels; of a run that does not keep them, none.
    """

    save_dir: Path
    inputs: int
    failures: tuple[Failure, ...]
    predictions: tuple[Prediction, ...] = ()

    def __len__(self) -> int:
        return len(self.predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[index]

    def require_complete(self) -> None:
        """Raise PartialError, which lists the inputs that failed, if there are any."""
        if not self.failures:
            return
        reasons = [failure.reason for failure in self.failures]
        more = f"; and {len(reasons) - _MAX_LISTED} more, see the warnings above" if len(reasons) > _MAX_LISTED else ""
        raise PartialError(
            f"{len(reasons)} of {self.inputs} inputs failed, the others are complete: "
            f"{'; '.join(reasons[:_MAX_LISTED])}{more}"
        )


@dataclass(frozen=True)
class Detection:
    """A detection run: what is detected by which network, and who sees it.

    Hooks that may work in the background get their predictions in a thread, in the same order, behind the network.

    Attributes:
        config: The flags.
        predictor: The network.
        source: The frames.
        hooks: Who sees the predictions.
        waits_for_files: Whether a prediction is yielded only when all hooks have seen it.
    """

    config: DetectConfig
    predictor: Predictor
    source: FileSource | StreamSource
    hooks: Sequence[PredictionHook]
    waits_for_files: bool = False
    _given_up: set[tuple[int, PredictionHook]] = field(default_factory=set, repr=False)

    def run(self) -> None:
        """Predict until the source ends or a hook stops, as `predictions` does."""
        for _ in self.predictions():
            pass

    def predictions(self) -> Iterator[Prediction]:
        """Yield each prediction when the hooks have seen it, those in the background perhaps later.

        Files and streams are closed whatever happens.

        An input that cannot be read, or whose results cannot be written, ends up in the source's failures.
        """
        try:
            with ExitStack() as at_end:
                for closable in (*reversed(self.hooks), self.source):
                    at_end.callback(closable.close)
                writer = None
                if self._is_threaded and any(hook.background for hook in self.hooks):
                    writer = BackgroundWorker("results")
                    at_end.callback(writer.close)  # what was detected is written, also after Ctrl-C
                yield from self._predict_all(writer)
        except KeyboardInterrupt:
            if not self.source.live:  # a camera has no other end: there, stopping is the normal way out
                raise

    @property
    def _is_threaded(self) -> bool:
        return not self.config.profile_steps  # whose parts add up only if they come one after the other

    def _predict_all(self, writer: BackgroundWorker | None) -> Iterator[Prediction]:
        latest: int | None = None
        options = replace(predict_options(self.config), read_ahead=self._is_threaded)
        with closing(predict(self.predictor, self.source, options, self._before_frame)) as predictions:
            for prediction in predictions:
                index = prediction.frame.index
                if latest not in (None, index):
                    self._end_input(latest, writer)
                latest = index
                self._show(prediction, writer)
                if writer is not None and self.waits_for_files:
                    writer.finish()
                yield prediction
                if any(hook.should_stop() for hook in self.hooks):
                    break
        self._end_input(latest, writer)
        if writer is not None:
            writer.finish()
        self._require_results()

    def _show(self, prediction: Prediction, writer: BackgroundWorker | None) -> None:
        frame = prediction.frame
        self._for_each_hook(frame.index, lambda hook: hook.after_frame(prediction), writer, frame.image.nbytes)

    def _before_frame(self, frame: Frame) -> None:
        for hook in self.hooks:
            self._attempt(frame.index, hook, partial(hook.before_frame, frame))

    def _end_input(self, index: int | None, writer: BackgroundWorker | None) -> None:
        if isinstance(self.source, FileSource) and index is not None:
            self._for_each_hook(index, lambda hook: hook.after_input(index), writer)

    def _for_each_hook(
        self, index: int, step: Callable[[PredictionHook], None], writer: BackgroundWorker | None, size: int = 0
    ) -> None:
        """Let every hook do a step: here, or in the writer's thread those that may."""
        behind = [hook for hook in self.hooks if writer is not None and hook.background]
        for hook in self.hooks:
            if hook not in behind:
                self._attempt(index, hook, partial(step, hook))
        if writer is not None and behind:
            writer.do(partial(self._attempt_all, index, behind, step), size)

    def _attempt_all(self, index: int, hooks: Sequence[PredictionHook], step: Callable[[PredictionHook], None]) -> None:
        for hook in hooks:
            self._attempt(index, hook, partial(step, hook))

    def _attempt(self, index: int, hook: PredictionHook, step: Callable[[], None]) -> None:
        """Let a hook do its step. If it cannot, the input has failed, and the hook sees no more of it.

        What would fail for every input ends the run: a full disk, and whatever happens to a camera's results.
        """
        if (index, hook) in self._given_up:
            return
        try:
            step()
        except (UserError, OSError) as error:
            if not isinstance(self.source, FileSource) or getattr(error, "errno", None) in DISK_ERRORS:
                raise
            self._given_up.add((index, hook))
            self.source.fail(index, error)

    def _require_results(self) -> None:
        if self.source.failures and len(self.source.failures) == len(self.source):
            raise DataError(
                f"none of the {len(self.source)} inputs could be read and written: {self.source.failures[0].reason}"
            )


class DetectionStream(Iterator[Prediction]):
    """A detection run that goes on as it is iterated: it yields each prediction, by default once its files are written.

    Weights and source are opened, and the run folder is made, before the first prediction is asked for. A run that is
    not iterated to its end is ended by `close()`, by a `with` block, or when it is forgotten; its files are whole.

    Args:
        config: The flags.
        guard: Entered around each step.
        waits_for_files: Whether the files of a prediction are written before it is yielded; if not, they are written in
            a thread, behind the network.

    Attributes:
        save_dir: The run folder.
        live: Whether the source is a camera or a stream, which has no end.
        outcome: The results without predictions; None before the end.

    Raises:
        UserError: Of the kind that names what cannot be read or written; iterating raises it too.
    """

    save_dir: Path
    live: bool

    def __init__(
        self,
        config: DetectConfig,
        guard: Callable[[], AbstractContextManager[object]] = nullcontext,
        waits_for_files: bool = True,
    ):
        self.outcome: DetectionOutcome | None = None
        self._guard = guard
        self._waits_for_files = waits_for_files
        self._context = copy_context()  # the run's fonts are its own, whoever draws between two steps
        self._steps = self._run(config)
        with guard():
            self._context.run(next, self._steps)

    def __iter__(self) -> "DetectionStream":
        return self

    def __next__(self) -> Prediction:
        with self._guard():
            return cast(Prediction, self._context.run(next, self._steps))

    def close(self) -> None:
        """End the run; what is written so far is whole."""
        self._context.run(self._steps.close)

    def __enter__(self) -> "DetectionStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _run(self, config: DetectConfig) -> Generator[Prediction | None, None, None]:
        """Yield None once everything is open, then the predictions."""
        with drawing_fonts(config.font):
            yield from self._run_with_fonts(config)

    def _run_with_fonts(self, config: DetectConfig) -> Generator[Prediction | None, None, None]:
        refuse_for_exported(
            config.weights,
            {
                "--half": config.half,
                "--augment": config.augment,
                "--visualize": config.visualize,
                "--heatmap": bool(config.heatmap),
                "--compile": config.compile,
                "--update": config.update,
            },
        )
        load_plugins(config.plugin)
        source = open_source(
            config.source,
            vid_stride=config.vid_stride,
            stream_buffer=config.stream_buffer,
            stream_timeout=config.stream_timeout,
        )
        predictor = load_predictor(config.weights, config.device, config.half, config.download, config.dnn)
        config = replace(config, conf_thres=predictor.least_confidence(config.conf_thres))
        class_ids(config.classes, predictor.names)  # an unknown one is an error that leaves no run folder
        with run_folder(config.project, config.name, config.exist_ok) as save_dir:
            self.save_dir, self.live = save_dir, source.live
            try:
                labels = LabelWriter(save_dir, config.save_conf) if config.save_txt else None
                hooks = [*build_hooks(config, save_dir, predictor), *([labels] if labels else [])]
            except OSError as error:  # such as a file of an earlier run that another program holds, or that is a folder
                raise UserError(f"{error.filename}: {error.strerror}; choose another --project or --name") from None
            if config.compile:
                predictor = compiled_predictor(predictor)
            if config.profile_steps:
                profile = FrameProfile(config.profile_steps, save_dir, predictor.model, predictor.device)
                hooks = [profile, *hooks, profile.last]
            yield None
            yield from Detection(config, predictor, source, hooks, self._waits_for_files).predictions()
            if labels:
                LOGGER.info(f"{labels.written} labels saved to {labels.folder}")
        LOGGER.info(f"Results saved to {save_dir}")
        if config.update:
            strip_copies(config.weights, config.download)
        self.outcome = DetectionOutcome(save_dir, len(source), tuple(source.failures))


def detect(config: DetectConfig, keep: bool = False) -> DetectionOutcome:
    """Detect as flags say; inputs that fail are skipped.

    Args:
        config: The flags.
        keep: Keep the predictions, without the pixels of their frames; those of cameras and streams are not kept.

    Returns:
        The results.

    Raises:
        UserError: Of the kind that names what is wrong, also if all inputs fail.
    """
    stream = DetectionStream(config, waits_for_files=False)
    keep = keep and not stream.live
    kept = tuple(prediction.without_image() for prediction in stream if keep)
    if stream.outcome is None:
        raise RuntimeError("the detection run ended without an outcome")
    return replace(stream.outcome, predictions=kept)


def compiled_predictor(predictor: Predictor) -> Predictor:
    """Return a predictor that runs compiled: for the first shape by itself, for all shapes once another comes."""
    return replace(predictor, model=compiled_network(predictor.model, CompileOptions()))


def predict_options(config: DetectConfig) -> PredictOptions:
    """Return what detect.py's flags say about a prediction; the confidence is a number by now."""
    is_default = "imgsz" not in config.given and config.imgsz == DetectConfig.imgsz
    return PredictOptions(
        None if is_default else config.imgsz,
        float(config.conf_thres),
        config.iou_thres,
        config.max_det,
        config.classes,
        config.agnostic_nms,
        config.augment,
        slicing=Slicing.of(config),
        batch_size=config.batch_size,
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
    artist = Artist(save_dir, config.line_thickness, config.hide_labels, config.hide_conf)
    wanted: list[tuple[bool, Callable[[], PredictionHook]]] = [
        (True, ConsoleReporter),
        (not config.nosave, lambda: ImageWriter(save_dir, artist)),
        (config.save_frames, lambda: FrameWriter(save_dir)),
        (config.save_crop, lambda: CropWriter(save_dir)),
        (config.save_csv, lambda: CsvWriter(save_dir)),
        (config.save_json, lambda: JsonWriter(save_dir)),
        (
            config.save_counts,
            lambda: CountsWriter(save_dir, predictor.names, class_ids(config.classes, predictor.names)),
        ),
        (config.visualize, lambda: FeatureMaps(save_dir, predictor.model)),
        (bool(config.heatmap), lambda: HeatMapWriter(save_dir, predictor, predict_options(config), config.heatmap)),
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
