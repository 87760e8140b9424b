"""YOLOv5's utils.plots: boxes and text drawn on an image as it is, in its order of channels; crops; grids; plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.compat.box_functions import clip_coords, xywh2xyxy, xyxy2xywh
from utils.compat.everyday import imwrite, increment_path
from utils.compat.measures import class_names
from utils.plots.annotate import text_patch
from utils.plots.batches import plot_batch, plot_detections
from utils.plots.curves import plot_results as plot_results_file
from utils.plots.features import save_features
from utils.plots.label_statistics import plot_labels as plot_label_statistics
from utils.plots.palette import PALETTE, class_color
from utils.plots.sweeps import plot_evolution, plot_study
from utils.types import Detections

Color = tuple[int, int, int]
Boxes = Tensor | np.ndarray | Sequence[float]
_TEXT_PER_LINE = 8  # height of letters as a multiple of the lines' width, as in v6.1
_LEAST_TEXT = 10  # pixels


class Colors:
    """A color per class id: colors(3) is RGB, colors(3, True) is BGR. The colors are this project's."""

    def __init__(self):
        self.palette = list(PALETTE)
        self.n = len(self.palette)

    def __call__(self, i: Any, bgr: bool = False) -> Color:
        """Return a color.

        Args:
            i: The class id, a number or a tensor.
            bgr: Whether it is for a BGR image.

        Returns:
            Three numbers 0..255.
        """
        red, green, blue = class_color(int(i))
        return (blue, green, red) if bgr else (red, green, blue)

    @staticmethod
    def hex2rgb(h: str) -> Color:
        """Return the color of a text such as "#FF8000"."""
        text = h.removeprefix("#")
        return int(text[:2], 16), int(text[2:4], 16), int(text[4:6], 16)


colors = Colors()


class ScriptAnnotator:
    """Draws boxes and text on an image, in place if it is an array. v6.1's Annotator.

    Args:
        im: (H, W, 3) uint8 contiguous, RGB or BGR, or a Pillow image, of which a copy is drawn on.
        line_width: Pixels; by default it follows from the image's size.
        font_size: Pixels; by default it follows from the lines' width.
        font: Not used: letters are taken from the fonts of this machine that have them.
        pil: Not used: any letter is drawn either way.
        example: Not used.

    Attributes:
        im: The image that is drawn on.
        lw: Width of lines in pixels.
    """

    def __init__(
        self,
        im: Any,
        line_width: int | None = None,
        font_size: int | None = None,
        font: str = "Arial.ttf",
        pil: bool = False,
        example: str = "abc",
    ):
        is_array = isinstance(im, np.ndarray)
        if is_array and not im.flags.c_contiguous:
            raise ValueError("Annotator: expected a contiguous image; give np.ascontiguousarray(im)")
        self.im: np.ndarray = im if is_array and im.flags.writeable else np.array(im)
        self.lw = int(line_width or max(round(sum(self.im.shape) / 2 * 0.003), 2))
        self.font_size = int(font_size or max(self.lw * _TEXT_PER_LINE, _LEAST_TEXT))
        self.font, self.pil = font, pil

    def box_label(
        self, box: Boxes, label: str = "", color: Sequence[int] = (128, 128, 128), txt_color: Sequence[int] = (255,) * 3
    ) -> None:
        """Draw a box and its label: above it, or inside it if there is no room.

        Args:
            box: xyxy pixels.
            label: One line, "" for none.
            color: Of the box, in the image's order of channels.
            txt_color: Of the text.
        """
        left, top, right, bottom = (int(float(value)) for value in box)
        paint = _color(color)
        cv2.rectangle(self.im, (left, top), (right, bottom), paint, self.lw, cv2.LINE_AA)
        if label:
            patch = text_patch(str(label), self.font_size, _color(txt_color), paint)
            self._paste(patch, left, top - patch.shape[0] if top >= patch.shape[0] else top)

    def rectangle(self, xy: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        """Draw a rectangle.

        Args:
            xy: (left, top, right, bottom), or two corners.
            fill: Color of its area, None for none.
            outline: Color of its edge, None for none (white if `fill` is None too).
            width: Of the edge in pixels.
        """
        left, top, right, bottom = (int(float(value)) for value in np.asarray(xy).reshape(-1))
        if fill is not None:
            cv2.rectangle(self.im, (left, top), (right, bottom), _color(fill), -1)
        if outline is not None or fill is None:
            edge = (255, 255, 255) if outline is None else _color(outline)
            cv2.rectangle(self.im, (left, top), (right, bottom), edge, max(int(width), 1))

    def text(
        self, xy: Sequence[float], text: str, txt_color: Sequence[int] = (255, 255, 255), anchor: str = "top"
    ) -> None:
        """Write lines of text.

        Args:
            xy: (left, top) in pixels.
            text: One line or several.
            txt_color: Of the text.
            anchor: "top", or "bottom" if `xy` is the lower end of the first line.
        """
        left, top = (int(float(value)) for value in xy[:2])
        for line in str(text).split("\n"):
            letters = text_patch(line, self.font_size, (255, 255, 255), (0, 0, 0))
            self._blend(letters, _color(txt_color), left, top - (letters.shape[0] if anchor == "bottom" else 0))
            top += letters.shape[0]

    def fromarray(self, im: np.ndarray) -> None:
        """Go on with another image."""
        self.im = im

    def result(self) -> np.ndarray:
        """Return the image that is drawn on."""
        return np.asarray(self.im)

    def _blend(self, letters: np.ndarray, paint: Color, left: int, top: int) -> None:
        """Draw white letters on black in a color, over the image."""
        height, width = self.im.shape[:2]
        left, top = max(min(left, width - 1), 0), max(min(top, height - 1), 0)
        share = letters[: height - top, : width - left].astype(np.float32) / 255
        place = self.im[top : top + share.shape[0], left : left + share.shape[1]]
        place[:] = (place * (1 - share) + np.asarray(paint, np.float32) * share).round().astype(np.uint8)

    def _paste(self, patch: np.ndarray, left: int, top: int) -> None:
        height, width = self.im.shape[:2]
        left, top = max(min(left, width - 1), 0), max(min(top, height - 1), 0)
        patch = patch[: height - top, : width - left]
        self.im[top : top + patch.shape[0], left : left + patch.shape[1]] = patch


def _color(values: Any) -> Color:
    first, second, third = (int(value) for value in list(values)[:3])
    return first, second, third


def plot_one_box(
    x: Boxes,
    img: np.ndarray,
    color: Sequence[int] | None = None,
    label: str | None = None,
    line_thickness: int | None = 3,
) -> None:
    """Draw a box and its label on an image, in place, as v5's scripts do.

    Args:
        x: xyxy pixels.
        img: (H, W, 3) uint8 contiguous.
        color: In the image's order of channels; gray if None.
        label: One line.
        line_thickness: Pixels; None follows from the image's size.
    """
    ScriptAnnotator(img, line_thickness).box_label(x, label or "", color if color is not None else (128, 128, 128))


def save_one_box(
    xyxy: Boxes,
    im: np.ndarray,
    file: str | Path = "im.jpg",
    gain: float = 1.02,
    pad: float = 10,
    square: bool = False,
    BGR: bool = False,
    save: bool = True,
) -> np.ndarray:
    """Return the crop of a box, and perhaps write it.

    Args:
        xyxy: Pixels.
        im: (H, W, 3) uint8 BGR.
        file: Written with the suffix .jpg, under a name that is free.
        gain: Factor of its sides.
        pad: Pixels added to its sides.
        square: Whether the crop is a square.
        BGR: Whether the crop is BGR, as `im`; otherwise RGB.
        save: Whether it is written.

    Returns:
        (h, w, 3) uint8.
    """
    box = xyxy2xywh(torch.as_tensor(np.asarray([float(value) for value in xyxy])).view(-1, 4).float())
    if square:
        box[:, 2:] = box[:, 2:].max(1)[0][:, None]
    box[:, 2:] = box[:, 2:] * gain + pad
    corners = xywh2xyxy(box).long()
    clip_coords(corners, im.shape)
    left, top, right, bottom = corners[0].tolist()
    crop = im[top:bottom, left:right]
    if save:
        target = Path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        imwrite(increment_path(target).with_suffix(".jpg"), crop)
    return crop if BGR else crop[..., ::-1]


def output_to_target(output: Sequence[Tensor], max_det: int = 300) -> np.ndarray:
    """Return detections as rows (n, 7): index of the image, class, xywh, confidence.

    Args:
        output: (n, 6) per image.
        max_det: Rows of each image that are taken.

    Returns:
        float array.
    """
    parts = [np.zeros((0, 7))]
    for index, rows in enumerate(output):
        found = rows[:max_det].detach().cpu().numpy()
        parts.append(np.column_stack((np.full(len(found), index), found[:, 5], xyxy2xywh(found)[:, :4], found[:, 4])))
    return np.concatenate(parts)


def plot_images(
    images: Tensor | np.ndarray,
    targets: Tensor | np.ndarray,
    paths: Sequence[str] | None = None,
    fname: str | Path = "images.jpg",
    names: Sequence[str] | Mapping[int, str] | None = None,
    max_size: int = 1920,
    max_subplots: int = 16,
) -> None:
    """Write a grid of a batch with its labels or detections.

    Args:
        images: (B, 3, H, W) RGB, 0..255 or 0..1.
        targets: (M, 6) rows: image, class, xywh normalized; or (M, 7) of `output_to_target`, xywh in pixels.
        paths: The image files.
        fname: The image to write.
        names: Of the classes.
        max_size: Longer side of the grid in pixels.
        max_subplots: Images in the grid.
    """
    batch = torch.as_tensor(images)
    if batch.dtype != torch.uint8 and float(batch.max()) > 1:
        batch = batch.to(torch.uint8)
    rows = torch.as_tensor(targets).detach().cpu().float()
    files = list(paths) if paths is not None else [str(index) for index in range(len(batch))]
    labels = class_names(names or ())
    if rows.ndim == 2 and rows.shape[1] == 7:
        of_image = [rows[rows[:, 0] == index] for index in range(len(batch))]
        found = [Detections(xywh2xyxy(each[:, 2:6]), each[:, 6], each[:, 1].long()) for each in of_image]
        plot_detections(batch, found, files, fname, labels, max_subplots, max_size)
    else:
        plot_batch(batch, rows.reshape(-1, 6), files, fname, labels, max_subplots, max_size)


def plot_results(file: str | Path = "path/to/results.csv", dir: str | Path = "") -> None:
    """Write results.png beside results.csv.

    Args:
        file: The csv.
        dir: A folder instead, in which every results*.csv is plotted.
    """
    for each in sorted(Path(dir).glob("results*.csv")) if dir else [Path(file)]:
        plot_results_file(each)


def plot_labels(
    labels: np.ndarray, names: Sequence[str] | Mapping[int, str] = (), save_dir: str | Path = Path("")
) -> None:
    """Write labels.jpg and labels_correlogram.jpg.

    Args:
        labels: (n, 5) class, xywh normalized.
        names: Of the classes.
        save_dir: A folder.
    """
    plot_label_statistics(labels[:, 0], labels[:, 1:5], class_names(names), save_dir)


def plot_evolve(evolve_csv: str | Path = "path/to/evolve.csv") -> None:
    """Write evolve.png beside an evolve.csv."""
    plot_evolution(evolve_csv)


def plot_val_study(file: str | Path = "", dir: str | Path = "", x: Sequence[int] | None = None) -> None:
    """Write study.png from the files of val.py --task study.

    Args:
        file: One study_*.txt.
        dir: A folder instead, with several.
        x: Image sizes of the rows in pixels.
    """
    files = sorted(Path(dir).glob("study*.txt")) if dir else [Path(file)]
    plot_study(files, None, x) if x is not None else plot_study(files)


def feature_visualization(
    x: Tensor, module_type: str, stage: int, n: int = 32, save_dir: str | Path = "runs/detect/exp"
) -> None:
    """Write the feature maps of a layer as an image and as .npy.

    Args:
        x: (1, C, H, W).
        module_type: Name of the layer's class.
        stage: Index of the layer.
        n: Maps in the image.
        save_dir: A folder.
    """
    save_features(x, module_type, stage, save_dir, n)
