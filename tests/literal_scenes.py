"""Images in memory to augment, and the literal form of a scene: tiles pasted on its canvas, which is then warped."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from utils.config import Hyperparameters
from utils.datasets.image_source import ObjectCensus
from utils.datasets.label_store import LabelStore
from utils.datasets.letterboxing import fitted_size
from utils.types import Labels

SIDE = 160
STILL = Hyperparameters(hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0)


def smooth_image(height, width, seed):
    """Slow waves of color: an error of a tenth of a pixel changes a value by less than one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 25.0
    waves = [np.sin(x * rng.uniform(0.5, 1.5) + y * rng.uniform(-1.5, 1.5) + rng.uniform(0, 6)) for _ in range(3)]
    return (127 + 100 * np.stack(waves, 2)).astype(np.uint8)


def some_labels(seed, polygons=False):
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.05, 0.4, (6, 2)).astype(np.float32)
    center = (size / 2 + rng.uniform(0, 1, (6, 2)) * (1 - size)).astype(np.float32)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    outlines = tuple(
        (c + s / 2 * np.stack((np.cos(angles), np.sin(angles)), 1)).astype(np.float32)
        for c, s in zip(center, size, strict=True)
    )
    return Labels(np.arange(6), np.concatenate((center, size), 1), outlines if polygons else ())


@dataclass
class Album:
    """Images in memory, at the size they train at unless `enlarged`."""

    polygons: bool = False
    enlarged: int = 1

    def __post_init__(self):
        self.natives = [(120, 160), (160, 90), (160, 160), (60, 160), (107, 160)]
        self.reads = []

    def __len__(self):
        return len(self.natives)

    def fitted(self, index):
        return fitted_size(self.natives[index], SIDE)

    def labels(self, index):
        return some_labels(index, self.polygons)

    @cached_property
    def census(self):
        every = range(len(self))
        return ObjectCensus.build(LabelStore.build(map(str, every), self.natives, [*map(self.labels, every)]), SIDE)

    def image(self, index, zoom):
        self.reads.append(index)
        height, width = self.natives[index]
        return smooth_image(height * self.enlarged, width * self.enlarged, index)


def literal_canvas(album, scene):
    """All of each tile pasted where it lies, one canvas pixel at a time in each axis; sizes may be fractions."""
    height, width = scene.view.canvas
    canvas = np.full((height, width, 3), 114, np.uint8)
    for tile in scene.tiles:
        image = album.image(tile.index, 1.0)
        (x, y), (w, h) = tile.corner, tile.size
        columns = [c for c in range(width) if x <= c + 0.5 < x + w]
        rows = [r for r in range(height) if y <= r + 0.5 < y + h]
        if not columns or not rows:
            continue
        map_x = np.float32([(c + 0.5 - x) * image.shape[1] / w - 0.5 for c in columns])
        map_y = np.float32([(r + 0.5 - y) * image.shape[0] / h - 0.5 for r in rows])
        part = cv2.remap(image, *np.meshgrid(map_x, map_y), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = part
    return canvas


def literal_view(canvas, view):
    """Every output pixel's center taken back to the canvas."""
    height, width = view.shape
    y, x = np.mgrid[:height, :width] + 0.5
    points = np.stack((x, y, np.ones_like(x)), -1) @ np.linalg.inv(view.matrix).T
    points = (points[..., :2] / points[..., 2:] - 0.5).astype(np.float32)
    return cv2.remap(canvas, points[..., 0], points[..., 1], cv2.INTER_LINEAR, borderValue=(114,) * 3)


def literal_boxes(album, scene):
    """One object, one corner at a time."""
    kept = []
    height, width = scene.view.canvas
    for tile in scene.tiles:
        labels = album.labels(tile.index)
        for cls, (cx, cy, w, h) in zip(labels.cls, labels.xywhn.astype(np.float64), strict=True):
            x0, y0 = (cx - w / 2) * tile.size[0] + tile.corner[0], (cy - h / 2) * tile.size[1] + tile.corner[1]
            x1, y1 = (cx + w / 2) * tile.size[0] + tile.corner[0], (cy + h / 2) * tile.size[1] + tile.corner[1]
            x0, x1 = (min(max(v, 0), width) for v in (x0, x1))
            y0, y1 = (min(max(v, 0), height) for v in (y0, y1))
            moved = [scene.view.matrix @ (x, y, 1) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
            xs = [min(max(p[0] / p[2], 0), scene.view.shape[1]) for p in moved]
            ys = [min(max(p[1] / p[2], 0), scene.view.shape[0]) for p in moved]
            bw, bh = max(xs) - min(xs), max(ys) - min(ys)
            full = (x1 - x0) * (y1 - y0) * scene.view.scale**2
            if bw > 2 and bh > 2 and bw * bh / (full + 1e-16) > 0.1 and max(bw / (bh + 1e-16), bh / (bw + 1e-16)) < 100:
                kept.append((cls, min(xs), min(ys), max(xs), max(ys)))
    return np.array(kept).reshape(-1, 5)


VIEWS = {
    "zoom": dict(scale=0.5, translate=0.2),
    "rotated": dict(degrees=40.0, shear=8.0, scale=0.4),
    "perspective": dict(perspective=0.001, degrees=10.0, translate=0.1),
    "far": dict(scale=0.9, translate=0.1),
}


class PaintedAlbum(Album):
    """Black images whose objects are rectangles, of whole pixels, in the colors of their classes."""

    COLORS = np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255]])

    def labels(self, index):
        height, width = self.natives[index]
        rng, boxes = np.random.default_rng([index, 3]), []
        while len(boxes) < 5:
            w, h = rng.integers(16, 36, 2)
            x, y = rng.integers(4, width - w - 3), rng.integers(4, max(height - h - 3, 5))
            if y + h <= height - 4 and all(
                x > a + c + 3 or a > x + w + 3 or y > b + d + 3 or b > y + h + 3 for a, b, c, d in boxes
            ):
                boxes.append((x, y, w, h))
            elif rng.random() < 0.02:
                break
        boxes = np.array(boxes, float).reshape(-1, 4)
        size = np.array([width, height] * 2)
        boxes[:, :2] += boxes[:, 2:] / 2
        return Labels(rng.integers(6, size=len(boxes)), (boxes / size).astype(np.float32))

    def image(self, index, zoom):
        self.reads.append(index)
        height, width = self.natives[index]
        image = np.zeros((height, width, 3), np.uint8)
        labels = self.labels(index)
        for cls, (x, y, w, h) in zip(labels.cls, labels.xywhn * [width, height, width, height], strict=True):
            x0, y0 = round(x - w / 2), round(y - h / 2)
            image[y0 : y0 + round(h), x0 : x0 + round(w)] = self.COLORS[cls]
        return image
