"""A dataset drawn from a seed: discs, triangles, squares and stars in cluttered, textured scenes.

It stands in for photographed images if there are none: objects of any size and rotation occlude each other, are
occluded by bars, truncated by the image's edge, blurred, shaded and noisy. Most objects of a class have its typical
hue, but not all: color helps early in training, and only outlines decide the rest. The same seed gives the same files.

The generator "large-shapes" draws the same objects as aerial images show them: many small ones and a few large ones in
large images, and crops of such scenes to train on (docs/slicing.md).
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from utils.errors import ConfigError, DataError, nearest
from utils.images import write_image
from utils.log import LOGGER, progress

CLASSES = ("disc", "triangle", "square", "star")
SPLITS = ("train", "val", "test")
VERSION = 3  # of the drawing: datasets of another version are drawn again
MANIFEST = "manifest.json"
GENERATORS = ("shapes", "large-shapes")
LEAST_LARGE = 384  # pixels: long side of the smallest large scene

_SUPERSAMPLING = 2  # scenes are drawn at twice their size and reduced: smooth edges
_SHIFT = 4  # fractional bits of the coordinates that cv2 draws with
_CLASS_HUES = (0.0, 90.0, 180.0, 270.0)  # degrees, the typical hue of each class
_TYPICAL_HUE_SHARE = 0.9  # share of objects drawn near the typical hue of their class
_CROP = 6  # a crop that is trained on has this part of a large scene's long side
_CROWDING = 4.0  # and is that much more crowded, so that few of them teach much
_CLUTTERED = 256  # pixels: one lot of clutter for each square of this side in a large scene
_LARGE_SCENES = {  # boxes' long sides in pixels, and objects per megapixel
    "small": ((11.0, 32.0), 18.0),
    "medium": ((34.0, 90.0), 2.0),
    "large": ((130.0, 360.0), 1.2),
}
_MIN_VISIBLE = 0.45  # share of an object that must be visible for it to be labeled


@dataclass(frozen=True)
class ShapesOptions:
    """The options of a data yaml's `generate:`.

    Attributes:
        generator: "shapes" for square scenes with a few objects each, "large-shapes" for large scenes with many small
            objects; of these the train split holds square crops.
        seed: Seed of all random draws, at least 0.
        train: Number of images in the train split.
        val: Number of images in the val split.
        test: Number of images in the test split.
        size: Side of the square images in pixels, at least 32. Of large scenes the longer side, a multiple of 6 from
            384 on; the shorter one is two thirds of it, and crops have a sixth.
        segments: Whether labels are outlines (polygons) instead of boxes.
    """

    generator: str = "shapes"
    seed: int = 0
    train: int = 320
    val: int = 80
    test: int = 32
    size: int = 256
    segments: bool = False

    @staticmethod
    def read(options: dict) -> "ShapesOptions":
        """Return the options of a `generate:` mapping.

        Raises:
            ConfigError: If a key is unknown, or a value has another type or is out of range.
        """
        known: dict[str, type] = {field.name: type(field.default) for field in fields(ShapesOptions)}
        for key, value in options.items():
            if key not in known:
                raise ConfigError(f"generate: unknown key {key!r}{nearest(key, known)}")
            if type(value) is not known[key] or isinstance(value, int) and value < 0:
                raise ConfigError(f"generate: {key}: expected {known[key].__name__} of at least 0, got {value!r}")
        result = ShapesOptions(**options)
        if result.generator not in GENERATORS:
            raise ConfigError(f"generate: unknown generator {result.generator!r}; there are: {', '.join(GENERATORS)}")
        if result.size < 32:
            raise ConfigError(f"generate: size: expected at least 32 pixels, got {result.size}")
        if result.generator == "large-shapes" and (result.size < LEAST_LARGE or result.size % _CROP):
            raise ConfigError(
                f"generate: size: large-shapes take a multiple of {_CROP}, at least {LEAST_LARGE}, got {result.size}"
            )
        return result


def is_drawn(root: Path | str, options: ShapesOptions | None = None) -> bool:
    """Return whether a folder was drawn by this program and, given options, with exactly those.

    Args:
        root: The dataset folder; it need not exist.
        options: What it must have been drawn with; any options if None.

    Returns:
        Whether there is a manifest; given options, whether it is theirs and of this version of the drawing.
    """
    found = _read_manifest(Path(root))
    return found is not None and (options is None or found == _manifest_content(options))


def draw_dataset(root: Path | str, options: ShapesOptions) -> Path:
    """Draw images/<split>/ and labels/<split>/ into a folder, which appears whole or not at all.

    Args:
        root: The dataset folder. One that was drawn earlier with other options is replaced.
        options: What to draw.

    Returns:
        `root` as a Path.

    Raises:
        DataError: If the folder has content that this program did not draw; it is left as it is.
    """
    root = Path(root)
    if root.exists() and any(root.iterdir()) and _read_manifest(root) is None:
        raise DataError(f"{root}: is not empty and was not drawn by this program; move it, or choose another `path:`")
    root.parent.mkdir(parents=True, exist_ok=True)
    LOGGER.info(f"Drawing {options.train + options.val + options.test} images of the shapes dataset into {root}")
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        os.chmod(temporary, 0o755)
        _draw_into(temporary, options)
        _move_into_place(root, temporary, options)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def draw_scene(rng: np.random.Generator, size: int = 256) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return a drawn image with the classes and outlines of its objects.

    Args:
        rng: Source of all random draws.
        size: Side of the image in pixels.

    Returns:
        The image (size, size, 3) uint8 RGB, the class ids (n,) int64, and n outlines: polygons (k, 2) of xy normalized,
        cut at the image's edge. Objects that are mostly occluded are drawn and not returned.
    """
    side = size * _SUPERSAMPLING
    canvas = cv2.resize(_background(rng, size), (side, side), interpolation=cv2.INTER_LINEAR)
    _draw_clutter(rng, canvas)
    return _with_objects(rng, canvas, _sample_placements(rng, side))


def draw_large_scene(
    rng: np.random.Generator, shape: tuple[int, int], crowding: float = 1.0
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return a drawn image as if seen from above: many objects of 8 to 32 pixels, some larger, a few very large.

    The sizes of the objects in pixels and their number per area do not depend on the image's.

    Args:
        rng: Source of all random draws.
        shape: (height, width) of the image in pixels.
        crowding: Factor of the number of objects.

    Returns:
        As of `draw_scene`, the image of (height, width, 3).
    """
    height, width = shape
    whole = _background(rng, max(shape))[:height, :width]
    size = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    canvas = cv2.resize(whole, size, interpolation=cv2.INTER_LINEAR)
    for rows in np.array_split(np.arange(size[1]), max(round(height / _CLUTTERED), 1)):
        for columns in np.array_split(np.arange(size[0]), max(round(width / _CLUTTERED), 1)):
            _draw_clutter(rng, canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return _with_objects(rng, canvas, _scattered_placements(rng, size, crowding))


def _with_objects(
    rng: np.random.Generator, canvas: np.ndarray, placements: list[tuple[np.ndarray, float]]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Draw objects and occluders on a supersampled background; return the image, classes and outlines."""
    height, width = canvas.shape[:2]
    object_map = np.zeros((height, width), np.int32)  # visible object per pixel, from 1; 0: none, -1: an occluder
    classes, outlines, areas = [], [], []
    for center, radius in placements:
        classes.append(int(rng.integers(len(CLASSES))))
        outlines.append(_outline(rng, CLASSES[classes[-1]], radius) + center)
        areas.append(_draw_object(rng, canvas, object_map, outlines[-1], len(classes), _CLASS_HUES[classes[-1]]))
    _draw_occluders(rng, canvas, object_map)
    size = (width // _SUPERSAMPLING, height // _SUPERSAMPLING)
    image = _simulate_camera(rng, cv2.resize(canvas, size, interpolation=cv2.INTER_AREA))
    pixels = np.bincount(object_map[object_map > 0], minlength=len(areas) + 1)[1:]
    kept = np.flatnonzero(pixels >= _MIN_VISIBLE * np.array(areas))
    kept_outlines = [cut_to_unit(outlines[index] / (width, height)) for index in kept]
    return image, np.array([classes[index] for index in kept], np.int64), kept_outlines


def cut_to_unit(points: np.ndarray) -> np.ndarray:
    """Return the part of a polygon (k, 2) inside 0..1, as a polygon (Sutherland and Hodgman, 1974)."""
    for axis in (0, 1):
        for sign, limit in ((1, 0.0), (-1, -1.0)):
            kept = []
            for start, end in zip(np.roll(points, 1, 0), points, strict=True):
                depths = sign * start[axis] - limit, sign * end[axis] - limit
                if (depths[0] < 0) != (depths[1] < 0):
                    kept.append(start + (end - start) * depths[0] / (depths[0] - depths[1]))
                if depths[1] >= 0:
                    kept.append(end)
            points = np.array(kept).reshape(-1, 2)
    return points.clip(0, 1)


def _manifest_content(options: ShapesOptions) -> dict:
    return {"version": VERSION, **asdict(options)}


def _read_manifest(root: Path) -> dict | None:
    """Return the manifest of a folder this program drew, or None."""
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("generator") in GENERATORS else None


def _draw_into(folder: Path, options: ShapesOptions) -> None:
    images = [(split, image_index) for split in SPLITS for image_index in range(getattr(options, split))]
    for split in SPLITS:
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
    for split, image_index in progress(images, description="Drawing shapes"):
        rng = np.random.default_rng([options.seed, SPLITS.index(split), image_index])
        image, classes, outlines = _drawn(rng, options, split)
        write_image(folder / "images" / split / f"{image_index:05d}.jpg", image)
        rows = [
            _label_row(class_id, outline, options.segments) for class_id, outline in zip(classes, outlines, strict=True)
        ]
        (folder / "labels" / split / f"{image_index:05d}.txt").write_text("".join(rows), encoding="utf-8")
    (folder / MANIFEST).write_text(json.dumps(_manifest_content(options), indent=1), encoding="utf-8")


def _drawn(
    rng: np.random.Generator, options: ShapesOptions, split: str
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """An image of a split with the classes and outlines of its objects."""
    if options.generator == "shapes":
        return draw_scene(rng, options.size)
    if split == "train":
        return draw_large_scene(rng, (options.size // _CROP,) * 2, _CROWDING)
    return draw_large_scene(rng, (options.size * 2 // 3, options.size))


def _label_row(class_id: int, outline: np.ndarray, segments: bool) -> str:
    """Return a label row: the class id, then the outline's points or its box as xywh normalized."""
    low, high = outline.min(0), outline.max(0)
    values = outline.ravel() if segments else np.concatenate(((low + high) / 2, high - low))
    return f"{class_id} {' '.join(f'{value:.6f}' for value in values)}\n"


def _move_into_place(root: Path, new: Path, options: ShapesOptions) -> None:
    """Move `new` to `root`, unless another process has put the same drawing there meanwhile."""
    if is_drawn(root, options):
        return
    if root.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        os.replace(root, old / root.name)
        shutil.rmtree(old, ignore_errors=True)
    try:
        os.replace(new, root)
    except OSError:
        if not is_drawn(root, options):
            raise


# The scene, from back to front. All coordinates are pixels (x, y) of the supersampled canvas.


def _color(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float], hue: float | None = None
) -> np.ndarray:
    """Return a color (3,) float32 RGB 0..255 of a hue in degrees; of a random hue if None."""
    hue = rng.uniform(0, 360) if hue is None else hue % 360
    hsv = np.array([[[hue, rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255


def _noise(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Return (side, side) float32 in -1..1, interpolated between the values of a grid of `cells` x `cells`."""
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC).clip(-1, 1)


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return (side, side, 3) uint8 RGB: a gradient between two colors, mottled and perhaps striped."""
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]
    mottle = 0.9 * _noise(rng, side, 4) + 0.5 * _noise(rng, side, 11) + 0.3 * _noise(rng, side, 40)
    mix = (0.5 + 0.3 * across + 0.35 * mottle).clip(0, 1)[..., None]
    first, second = (_color(rng, (0.05, 0.5), (0.25, 0.9)) for _ in range(2))
    image = first * mix + second * (1 - mix)
    if rng.random() < 0.5:
        period = rng.uniform(0.03, 0.12)
        bands = np.sin((np.cos(angle) * ramp[:, None] - np.sin(angle) * ramp[None, :]) * np.pi / period)
        image += rng.uniform(5, 22) * bands[..., None]
    image += 10 * _noise(rng, side, side // 3)[..., None]
    return image.clip(0, 255).astype(np.uint8)


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw what is not an object: lines, arcs, crosses and specks."""
    side = len(canvas)
    for _ in range(rng.integers(5, 14)):
        color = tuple(map(float, _color(rng, (0.1, 0.9), (0.2, 1.0))))
        point, other = (tuple(map(int, rng.integers(0, side, 2))) for _ in range(2))
        width = int(rng.integers(1, 5))
        kind = rng.integers(4)
        if kind == 0:
            cv2.line(canvas, point, other, color, width, cv2.LINE_AA)
        elif kind == 1:
            axes = tuple(map(int, rng.integers(side // 30, side // 5, 2)))
            turn, start = rng.uniform(0, 360, 2)
            cv2.ellipse(canvas, point, axes, turn, start, start + rng.uniform(40, 150), color, width, cv2.LINE_AA)
        elif kind == 2:
            cv2.drawMarker(
                canvas,
                point,
                color,
                int(rng.choice([cv2.MARKER_CROSS, cv2.MARKER_TILTED_CROSS])),
                int(rng.integers(side // 40, side // 14)),
                width,
                cv2.LINE_AA,
            )
        else:
            for speck in rng.normal(point, side / 25, (int(rng.integers(4, 12)), 2)):
                cv2.circle(
                    canvas, tuple(map(int, speck)), int(rng.integers(1, side // 110 + 2)), color, -1, cv2.LINE_AA
                )


def _sample_placements(rng: np.random.Generator, side: int) -> list[tuple[np.ndarray, float]]:
    """Return (center, radius) of each object: some touch or overlap, none lies on top of another."""
    placements: list[tuple[np.ndarray, float]] = []
    for _ in range(rng.integers(2, 7)):
        radius = side * rng.uniform(0.09, 0.22)
        for _ in range(20):
            center = rng.uniform(0.03 * side, 0.97 * side, 2)
            if all(np.linalg.norm(center - other) > 0.8 * (radius + size) for other, size in placements):
                placements.append((center, radius))
                break
    return placements


def _scattered_placements(
    rng: np.random.Generator, size: tuple[int, int], crowding: float
) -> list[tuple[np.ndarray, float]]:
    """Return (center, radius) of each object of a large scene of (width, height), the largest first."""
    placements: list[tuple[np.ndarray, float]] = []
    pixels = size[0] * size[1] / _SUPERSAMPLING**2
    for lengths, density in reversed(_LARGE_SCENES.values()):
        for _ in range(rng.poisson(crowding * density * pixels / 1e6)):
            radius = min(rng.uniform(*lengths) / 2 * _SUPERSAMPLING, 0.4 * min(size))
            for _ in range(20):
                center = rng.uniform(0, 1, 2) * size
                if all(np.linalg.norm(center - other) > 1.1 * (radius + its) for other, its in placements):
                    placements.append((center, radius))
                    break
    return placements


def _outline(rng: np.random.Generator, name: str, radius: float) -> np.ndarray:
    """Return the corners (k, 2) float64 of a shape around (0, 0), slightly stretched and rotated."""
    count, inner = {"disc": (48, 1.0), "triangle": (3, 1.0), "square": (4, 1.0), "star": (10, 0.45)}[name]
    angles = np.arange(count) * 2 * np.pi / count
    reach = np.where(np.arange(count) % 2, inner, 1.0) * radius
    points = np.stack((np.cos(angles), np.sin(angles)), 1) * reach[:, None]
    start = np.pi / 4 if name == "square" else 0.0  # so that a square is stretched along its sides
    return points @ _rotation(start) @ np.diag([1.0, rng.uniform(0.75, 1.0)]) @ _rotation(rng.uniform(0, 2 * np.pi))


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _fixed_point(points: np.ndarray) -> list[np.ndarray]:
    """Return one polygon (k, 2) int32 with _SHIFT fractional bits, as cv2 draws polygons."""
    return [np.round(points * 2**_SHIFT).astype(np.int32)]


def _draw_object(
    rng: np.random.Generator,
    canvas: np.ndarray,
    object_map: np.ndarray,
    outline: np.ndarray,
    object_id: int,
    typical_hue: float,
) -> float:
    """Draw an object with a shadow and a shaded, textured surface; return its area in pixels.

    The area includes what lies outside the canvas. Only the patch around the object is modified.
    """
    margin, size = 16, (canvas.shape[1], canvas.shape[0])
    left, top = (int(value) for value in np.maximum(outline.min(0) - margin, 0))
    right, bottom = (int(value) for value in np.minimum(outline.max(0) + margin, size))
    patch, polygon = canvas[top:bottom, left:right], _fixed_point(outline - (left, top))
    height, width = patch.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, polygon, 255, cv2.LINE_AA, _SHIFT)
    inside = mask > 127
    color = _contrasting_color(rng, patch[inside].mean(0) if inside.any() else np.full(3, 127.0), typical_hue)
    offset = np.array([[1, 0, rng.uniform(1, 9)], [0, 1, rng.uniform(1, 9)]], np.float32)
    shadow = cv2.warpAffine(mask, offset, (width, height))
    shaded = patch * (1 - cv2.blur(shadow, (9, 9))[..., None] * np.float32(0.4 / 255))
    alpha = mask[..., None] / np.float32(255)
    patch[:] = (shaded * (1 - alpha) + _textured_surface(rng, color, height, width) * alpha).astype(np.uint8)
    if rng.random() < 0.5:
        edge = tuple(map(float, (color * rng.uniform(0.3, 0.7)).clip(0, 255)))
        cv2.polylines(patch, polygon, True, edge, int(rng.integers(2, 6)), cv2.LINE_AA, _SHIFT)
    object_map[top:bottom, left:right][inside] = object_id
    return float(cv2.contourArea(outline.astype(np.float32)))


def _textured_surface(rng: np.random.Generator, color: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return (height, width, 3) float32 RGB 0..255 of one color, lit from a side and mottled."""
    slope = rng.uniform(-0.2, 0.2, 2).astype(np.float32)
    across, down = (np.linspace(-1, 1, length, dtype=np.float32) for length in (width, height))
    light = slope[0] * across + slope[1] * down[:, None]
    mottle = _noise(rng, max(height, width), max(height, width) // 8 + 2)[:height, :width]
    return (color * (1 + light + np.float32(rng.uniform(0, 0.18)) * mottle)[..., None]).clip(0, 255)


def _contrasting_color(rng: np.random.Generator, background: np.ndarray, typical_hue: float) -> np.ndarray:
    """Return a color that differs from the background's, mostly near the typical hue."""
    hue = rng.normal(typical_hue, 25) if rng.random() < _TYPICAL_HUE_SHARE else None
    candidates = [_color(rng, (0.35, 1.0), (0.35, 1.0), hue) for _ in range(8)]
    distances = [float(np.linalg.norm(color - background)) for color in candidates]
    farthest = candidates[int(np.argmax(distances))]
    return next((color for color, distance in zip(candidates, distances, strict=True) if distance > 90), farthest)


def _draw_occluders(rng: np.random.Generator, canvas: np.ndarray, object_map: np.ndarray) -> None:
    """Draw up to two bars across the scene, in front of everything."""
    side = len(canvas)
    for _ in range(rng.integers(0, 3)):
        middle, angle = rng.uniform(0, side, 2), rng.uniform(0, np.pi)
        along, width = np.array([np.cos(angle), np.sin(angle)]), side * rng.uniform(0.012, 0.04)
        across = np.array([-along[1], along[0]]) * width
        reach = along * side * rng.uniform(0.2, 0.8)
        bar = np.array(
            [middle - reach - across, middle + reach - across, middle + reach + across, middle - reach + across]
        )
        cv2.fillPoly(
            canvas, _fixed_point(bar), tuple(map(float, _color(rng, (0.0, 0.6), (0.1, 0.8)))), cv2.LINE_AA, _SHIFT
        )
        cv2.fillPoly(object_map, _fixed_point(bar), -1, cv2.LINE_8, _SHIFT)


def _simulate_camera(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the image (H, W, 3) uint8 after exposure, vignette, blur and sensor noise."""
    down, across = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 for side in image.shape[:2])
    vignette = 1 - rng.uniform(0, 0.25) * (across[None, :] + down[:, None])
    exposed = image * np.float32(rng.uniform(0.75, 1.2) * vignette[..., None])
    blurred = cv2.GaussianBlur(exposed, (0, 0), rng.uniform(0.2, 0.9))
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 6))
    return (blurred + noise).clip(0, 255).astype(np.uint8)
