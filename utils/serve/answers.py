"""What the page's interface answers with: the fields of its JSON, and what fills them."""

from pydantic import BaseModel, Field

from utils.serve.network_worker import Answer
from utils.serve.served_models import ServedModel


class DetectionRow(BaseModel):
    """One detection: a box in pixels of the image, its class and its confidence."""

    class_id: int
    name: str
    confidence: float = Field(ge=0, le=1)
    x1: float
    y1: float
    x2: float
    y2: float


class DetectedImage(BaseModel):
    """What a model found in one image."""

    model: str
    width: int
    height: int
    input_width: int
    input_height: int
    detections: list[DetectionRow]
    milliseconds: dict[str, float]
    batch: int


class ModelInfo(BaseModel):
    """A model that can be chosen."""

    name: str
    names: list[str]
    input_height: int
    input_width: int
    fixed_size: bool
    heat_maps: bool
    layers: list[str]


class HeatMapImage(BaseModel):
    """A heat map: a transparent PNG in base64, to be laid over the image, and what it shows."""

    model: str
    method: str
    layer: str
    target: str
    maximum: float = Field(description="the map's largest value in the unit of the method; the colors go from 0 to it")
    png: str


class RefusedRequest(BaseModel):
    """Why a request is not answered, in one line."""

    error: str


def model_info(model: ServedModel) -> ModelInfo:
    """Return what a page needs to know of a model to offer it."""
    height, width = model.imgsz
    return ModelInfo(
        name=model.name,
        names=list(model.predictor.names),
        input_height=height,
        input_width=width,
        fixed_size=model.predictor.fixed_shape is not None,
        heat_maps=model.has_gradients,
        layers=model.layers,
    )


def image_result(model: ServedModel, shape: tuple[int, ...], answer: Answer) -> DetectedImage:
    """Return the answer for one image.

    Args:
        model: The model.
        shape: (height, width, ...) of the image.
        answer: What it found.

    Returns:
        The fields of the JSON.
    """
    return DetectedImage(
        model=model.name,
        height=shape[0],
        width=shape[1],
        input_height=answer.shape[0],
        input_width=answer.shape[1],
        detections=detection_rows(model, answer),
        milliseconds={
            "preprocess": round(answer.times.pre, 2),
            "inference": round(answer.times.inference, 2),
            "nms": round(answer.times.nms, 2),
        },
        batch=answer.batch,
    )


def detection_rows(model: ServedModel, answer: Answer) -> list[DetectionRow]:
    """Return an answer's detections as plain values, rounded as in detect.py's --save-json.

    Args:
        model: The model, for its class names.
        answer: What it found.

    Returns:
        One row per detection, by falling confidence.
    """
    found, names = answer.detections, model.predictor.names
    return [
        DetectionRow(
            class_id=class_id,
            name=names[class_id] if class_id < len(names) else str(class_id),
            confidence=round(confidence, 5),
            x1=round(left, 2),
            y1=round(top, 2),
            x2=round(right, 2),
            y2=round(bottom, 2),
        )
        for (left, top, right, bottom), confidence, class_id in zip(
            found.xyxy.tolist(), found.conf.tolist(), found.cls.tolist(), strict=True
        )
    ]
