"""`detect.py --heatmap`: a heat map of the most confident detection of each frame, beside the annotated images."""

from dataclasses import replace
from pathlib import Path

from utils.config import PredictOptions
from utils.engine.heat_map_maker import HeatSource, draw_results, make_heat_maps
from utils.engine.prediction_writers import output_stem
from utils.engine.predictor import Prediction, PredictionHook, Predictor, as_predictor
from utils.heatmaps.detection_target import TargetChoice


class HeatMapWriter(PredictionHook):
    """Writes <stem>_heatmap.png per frame; the members of an ensemble are shown side by side, each with its own maps.

    Args:
        save_dir: The run folder.
        predictor: The network.
        options: How frames are predicted.
        method: One of `CAM_METHODS`.
    """

    def __init__(self, save_dir: Path, predictor: Predictor, options: PredictOptions, method: str):
        members = list(getattr(predictor.model, "models", None) or [predictor.model])
        self._folder, self._method = save_dir, method
        self._options = replace(options, imgsz=predictor.input_shape(options.imgsz))
        self._sources = [
            HeatSource(as_predictor(member), f"model {index}" if len(members) > 1 else "detections", "")
            for index, member in enumerate(members)
        ]

    def after_frame(self, prediction: Prediction) -> None:
        image, choice = prediction.frame.image, TargetChoice()
        results = [make_heat_maps(source, image, self._options, choice, self._method) for source in self._sources]
        file = self._folder / f"{output_stem(prediction)}_heatmap.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_results(file, image, results)
