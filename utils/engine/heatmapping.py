"""What heatmap.py runs: heat maps of one or several networks in each image of a source, and the checks asked for."""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from models.registry import load_plugins
from models.yolo import Model
from utils.checkpoint import load_models
from utils.class_choice import class_ids
from utils.config import HeatmapConfig, PredictOptions
from utils.datasets.sources import FileSource, Frame, open_source
from utils.device import select_device
from utils.engine.attention_drawing import AttentionFigures
from utils.engine.detection import DetectionOutcome
from utils.engine.heat_map_maker import (
    HeatResult,
    HeatSource,
    check_deletion,
    check_sanity,
    draw_results,
    make_heat_maps,
    save_arrays,
)
from utils.engine.heat_tables import HeatTables
from utils.engine.predictor import as_predictor
from utils.errors import ConfigError, DataError, UserError, cut
from utils.files import DISK_ERRORS, run_folder
from utils.heatmaps.deletion import CURVES, TrustCurve, TrustSettings
from utils.heatmaps.detection_target import TargetChoice
from utils.heatmaps.map_layers import find_layers
from utils.heatmaps.randomization import SanityStep, by_depth, verdict
from utils.log import LOGGER
from utils.plots.fonts import drawing_fonts
from utils.plots.heat_figures import (
    CurvePlot,
    PlottedCurve,
    draw_curves,
)
from utils.runtimes.opening import is_exported

_ORDER_TITLES = {
    "map": "the heat map",
    "random": "random maps",
    "center": "image center",
    "box": "box of the detection",
}
_GENERIC = re.compile(r"best|last|weights|seed\d+")  # names of files and folders that say nothing about the network


@dataclass(frozen=True)
class HeatmapRun:
    """A run of heatmap.py.

    Attributes:
        config: The flags.
        sources: The networks.
        folder: The run folder.
        tables: The tables that it writes.
    """

    config: HeatmapConfig
    sources: Sequence[HeatSource]
    folder: Path
    tables: HeatTables
    areas: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    correlations: dict[str, list[float]] = field(default_factory=dict)

    @property
    def options(self) -> PredictOptions:
        """How images are predicted."""
        config = self.config
        return PredictOptions(
            config.imgsz, config.conf_thres, config.iou_thres, config.max_det, config.classes, config.agnostic_nms
        )

    def draw(self, frame: Frame) -> None:
        """Write everything about one image.

        Args:
            frame: The image.
        """
        choice = TargetChoice(self.config.target, self.config.box)
        stem = frame_stem(frame)
        results = [
            make_heat_maps(source, frame.image, self.options, choice, self.config.method) for source in self.sources
        ]
        file = self.folder / f"{stem}_{self.config.method}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_results(file, frame.image, results)
        for result in results:
            LOGGER.info(f"{_title(frame)} {result.source.name}: {describe(result)}")
            self.tables.add_maps(frame, result)
            if self.config.save_npy:
                save_arrays(result, file.parent, PurePosixPath(stem).name)
            if result.target and self.config.sanity:
                self._check_sanity(frame, result, file.with_name(f"{file.stem}_{result.source.name}_sanity.png"))
            if result.target and self.config.deletion:
                self._check_deletion(frame, result, file.with_name(f"{file.stem}_{result.source.name}_deletion.png"))

    def _check_sanity(self, frame: Frame, result: HeatResult, file: Path) -> None:
        steps = check_sanity(result, self.config.draws, self.config.seed)
        self.tables.add_sanity(frame, result, steps)
        words = verdict(steps)
        title = f"{result.source.name}, {result.method}, {result.final.title}: {result.target_title()}"
        draw_curves(file, [sanity_plot(steps, title)], words.replace(": ", ":\n").replace(" (", "\n("))
        self.correlations.setdefault(result.source.name, []).append(
            float(np.abs(by_depth(steps, "spearman")[:, -1]).mean())
        )
        LOGGER.info(f"  sanity {result.source.name}: {words}")

    def _check_deletion(self, frame: Frame, result: HeatResult, file: Path) -> None:
        config = self.config
        curves = check_deletion(result, TrustSettings(config.steps, config.draws, config.seed))
        self.tables.add_curves(frame, result, curves)
        title = f"{result.source.name}, {result.method}, {result.final.title}: {result.target_title()}"
        draw_curves(file, [trust_plot(curves, kind) for kind in CURVES], title)
        for curve in curves:
            self.areas.setdefault((result.source.name, curve.kind, curve.order), []).append(curve.area)
        for kind in CURVES:
            shown = ", ".join(f"{each.order} {each.area:.3f}" for each in curves if each.kind == kind)
            LOGGER.info(f"  {kind} area {result.source.name}: {shown}")

    def summarize(self) -> None:
        """Log the means over all images, if there is more than one."""
        for name, values in self.correlations.items():
            if len(values) > 1:
                LOGGER.info(f"sanity {name}: mean |rank correlation| {np.mean(values):.2f} over {len(values)} images")
        for source in self.sources:
            for kind in CURVES:
                rows = {order: self.areas.get((source.name, kind, order), []) for order in _ORDER_TITLES}
                if len(rows["map"]) > 1:
                    shown = ", ".join(f"{order} {np.mean(values):.3f}" for order, values in rows.items())
                    LOGGER.info(f"{kind} area {source.name}: {shown}; means over {len(rows['map'])} images")


def draw_heatmaps(config: HeatmapConfig) -> DetectionOutcome:
    """Draw heat maps as `config` says; images that fail are skipped. Raises UserError kinds, also if all fail."""
    with drawing_fonts(config.font):
        return _draw_heatmaps(config)


def _draw_heatmaps(config: HeatmapConfig) -> DetectionOutcome:
    exported = next((name for name in config.weights if is_exported(name)), None)
    if exported is not None:
        raise ConfigError(
            f"--weights {cut(exported)}: an exported file has no layers to look into; give the checkpoint"
        )
    load_plugins(config.plugin)
    source = open_source(config.source, vid_stride=config.vid_stride)
    if not isinstance(source, FileSource):
        raise ConfigError(f"--source {cut(config.source)}: heat maps are drawn of files; save a frame and pass it")
    networks = load_sources(config)
    with run_folder(config.project, config.name, config.exist_ok) as folder, ExitStack() as at_end:
        tables = HeatTables(folder)
        at_end.callback(tables.close)
        run = HeatmapRun(config, networks, folder, tables)
        attention = AttentionFigures(config, networks, folder) if config.method == "attention" else None
        if attention:
            at_end.callback(attention.close)
        draw = attention.draw if attention else run.draw
        for frame in source:
            try:
                draw(frame)
            except ConfigError:
                raise
            except (UserError, OSError) as error:
                if getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                source.fail(frame.index, error)
        if source.failures and len(source.failures) == len(source):
            raise DataError(f"none of the {len(source)} inputs could be drawn: {source.failures[0].reason}")
        run.summarize()
    LOGGER.info(f"Results saved to {folder}")
    return DetectionOutcome(folder, len(source), tuple(source.failures))


def load_sources(config: HeatmapConfig) -> list[HeatSource]:
    """Return the networks of `--weights` with the layers of `--layer`. Raises ConfigError for a wrong one."""
    device = select_device(config.device)
    models = [load_models(name, device, fuse=False, download=config.download) for name in config.weights]
    sources = []
    for model, name, weights in zip(models, short_names(config.weights), config.weights, strict=True):
        TargetChoice(config.target, config.box).require_known(list(model.names), weights)
        layers = tuple(find_layers(cast("Model", model), config.layer or ()))
        sources.append(HeatSource(as_predictor(model), name, weights, layers))
        class_ids(config.classes, list(model.names))  # known in each network
    return sources


def short_names(weights: Sequence[str]) -> list[str]:
    """Return a short name per file, all different: its own, or those of its folders if its own says nothing.

    Args:
        weights: Paths of checkpoints.

    Returns:
        Names that can be part of a file's name.
    """
    parts = [PurePosixPath(Path(name).absolute().with_suffix("").as_posix()).parts[1:] for name in weights]
    telling = [[part for part in each if not _GENERIC.fullmatch(part)] or list(each) for each in parts]
    for ways in (telling, [list(each) for each in parts]):
        for depth in range(1, max(map(len, ways)) + 1):
            names = ["_".join(each[-depth:]) for each in ways]
            if len(set(names)) == len(names):
                return names
    return [f"{each[-1]}_{number}" for number, each in enumerate(telling, 1)]


def frame_stem(frame: Frame) -> str:
    """Return a frame's output name without suffix, its number appended in videos."""
    stem = str(PurePosixPath(frame.name).with_suffix(""))
    return stem if frame.kind == "image" else f"{stem}_{frame.number}"


def _title(frame: Frame) -> str:
    return f"{frame.kind} {frame.index + 1}/{frame.total} {frame.path}"


def describe(result: HeatResult) -> str:
    """Return one line on a result: target, layer and how well the map points at it."""
    if result.target is None:
        return (
            f"no such detection among the {len(result.found)} found, so there is no heat map; the image is drawn "
            "without one (--conf-thres lowers the bar)"
        )
    lines = []
    for heat in result.maps:
        if heat.peak <= 0:
            lines.append(f"layer {heat.title}: empty, the score does not rise with this map")
            continue
        figures = result.figures(heat)
        share, area = float(figures["share_inside"]), float(figures["area_inside"])
        lines.append(f"layer {heat.title}: {share:.0%} of the map lies in the target's boxes, {area:.0%} of the image")
    return f"{result.target_title()}; {'; '.join(lines)}"


def sanity_plot(steps: Sequence[SanityStep], title: str) -> CurvePlot:
    """Return the plot of a sanity check.

    Args:
        steps: Of `cascade`.
        title: Above it.

    Returns:
        Both figures by depth.
    """
    first = [step for step in steps if step.draw == 0]
    x = np.arange(len(first))
    curves = (
        PlottedCurve("rank correlation (Spearman)", x, by_depth(steps, "spearman"), 1),
        PlottedCurve("structural similarity (SSIM)", x, by_depth(steps, "ssim"), 2),
    )
    ticks = ("trained", *(step.row for step in first[1:]))
    return CurvePlot(title, "rows randomized up to here", "likeness to the trained network's map", curves, ticks)


def trust_plot(curves: Sequence[TrustCurve], kind: str) -> CurvePlot:
    """Return the plot of the curves of a kind.

    Args:
        curves: Of `trust_curves`.
        kind: "deletion" or "insertion".

    Returns:
        One curve per order of the pixels, with its area.
    """
    series: Mapping[str, int] = {"map": 1, "random": 0, "center": 3, "box": 2}
    shown = tuple(
        PlottedCurve(
            f"{_ORDER_TITLES[each.order]}, area {each.area:.3f}", each.shares, each.scores[None], series[each.order]
        )
        for each in curves
        if each.kind == kind
    )
    better = "lower is better" if kind == "deletion" else "higher is better"
    done = "deleted" if kind == "deletion" else "inserted"
    return CurvePlot(f"{kind} ({better})", f"share of pixels {done}", "score of the target", shown)
