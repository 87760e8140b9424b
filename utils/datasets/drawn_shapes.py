"""A data set drawn from a seed: discs, triangles, squares and stars in cluttered, textured scenes.

It stands in for real pictures where there are none: objects of any size and turn hide each other
and are hidden by bars, cut by the picture's edge, blurred, shaded and noisy. Each class has a
favourite colour that it wears often but not always, so colour helps early in training and only
outlines settle the rest. The same seed gives the same files.
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
VERSION = 3  # of the drawing: a change of it redraws
MANIFEST = "manifest.json"

_FINE = 2  # scenes are drawn at twice their size and reduced: smooth edges
_SHIFT = 4  # fractional bits of the coordinates cv2 draws with
_HUES = (0.0, 90.0, 180.0, 270.0)  # degrees, the favourite of each class
_LOYAL = 0.9  # share of objects that wear it
_LEAST_VISIBLE = 0.45  # share of an object that must show for it to be labelled


@dataclass(frozen=True)
class ShapesOptions:
    """What a data yaml's `generate:` may say. train, val, test: pictures of each split; size: their side
    in pixels; segments: label outlines (polygons) instead of boxes.
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
        """Return the options of a `generate:` mapping. Raises ConfigError on a key or value it does not know."""
        known = {field.name: type(field.default) for field in fields(ShapesOptions)}
        for key, value in options.items():
            if key not in known:
                raise ConfigError(f"generate: unknown key {key!r}{nearest(key, known)}")
            if type(value) is not known[key] or known[key] is int and value < 0:
                raise ConfigError(f"generate: {key}: expected {known[key].__name__} of at least 0, got {value!r}")
        result = ShapesOptions(**options)
        if result.generator != "shapes":
            raise ConfigError(f"generate: unknown generator {result.generator!r}; there is: shapes")
        if result.size < 32:
            raise ConfigError(f"generate: size: expected at least 32 pixels, got {result.size}")
        return result


def is_drawn(root: Path | str, options: ShapesOptions | None = None) -> bool:
    """Whether `root` was drawn by this program and, given options, with exactly those."""
    found = _manifest(Path(root))
    return found is not None and (options is None or found == _manifest_of(options))


def draw_dataset(root: Path | str, options: ShapesOptions) -> Path:
    """Draw images/<split>/ and labels/<split>/ into `root`, which appears whole or not at all.

    A folder drawn earlier with other options is replaced; any other folder with content is
    left alone with a DataError.
    """
    root = Path(root)
    if root.exists() and any(root.iterdir()) and _manifest(root) is None:
        raise DataError(f"{root}: is not empty and was not drawn by this program; move it, or choose another `path:`")
    root.parent.mkdir(parents=True, exist_ok=True)
    LOGGER.info(f"Drawing {options.train + options.val + options.test} pictures of the shapes data set into {root}")
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        os.chmod(temporary, 0o755)
        _draw_into(temporary, options)
        _replace(root, temporary, options)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def draw_scene(rng: np.random.Generator, size: int = 256) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return (picture RGB uint8 (size, size, 3), classes (n,) int64, outlines: n polygons (k, 2) in 0..1)."""
    side = size * _FINE
    canvas = cv2.resize(_background(rng, size), (side, side), interpolation=cv2.INTER_LINEAR)
    _clutter(rng, canvas)
    owner = np.zeros((side, side), np.int32)  # which object shows at a pixel, from 1; 0 is none, -1 an occluder
    classes, outlines, areas = [], [], []
    for centre, radius in _places(rng, side):
        classes.append(int(rng.integers(len(CLASSES))))
        outlines.append(_outline(rng, CLASSES[classes[-1]], radius) + centre)
        areas.append(_paint_object(rng, canvas, owner, outlines[-1], len(classes), _HUES[classes[-1]]))
    _occlude(rng, canvas, owner)
    picture = _photograph(rng, cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA))
    shown = [np.count_nonzero(owner == number) >= _LEAST_VISIBLE * area for number, area in enumerate(areas, 1)]
    kept = np.flatnonzero(shown)
    visible = [cut_to_unit(outlines[number] / side) for number in kept]
    return picture, np.array([classes[number] for number in kept], np.int64), visible


def cut_to_unit(points: np.ndarray) -> np.ndarray:
    """Return the part of a polygon (k, 2) inside 0..1, as a polygon (Sutherland and Hodgman, 1974)."""
    for axis in (0, 1):
        for sign, limit in ((1, 0.0), (-1, -1.0)):
            kept = []
            for start, end in zip(np.roll(points, 1, 0), points):
                depths = sign * start[axis] - limit, sign * end[axis] - limit
                if (depths[0] < 0) != (depths[1] < 0):
                    kept.append(start + (end - start) * depths[0] / (depths[0] - depths[1]))
                if depths[1] >= 0:
                    kept.append(end)
            points = np.array(kept).reshape(-1, 2)
    return points.clip(0, 1)


def _manifest_of(options: ShapesOptions) -> dict:
    return {"version": VERSION, **asdict(options)}


def _manifest(root: Path) -> dict | None:
    """The manifest of a folder this program drew, or None."""
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("generator") == "shapes" else None


def _draw_into(folder: Path, options: ShapesOptions) -> None:
    jobs = [(split, number) for split in SPLITS for number in range(getattr(options, split))]
    for split in SPLITS:
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
    for split, number in progress(jobs, description="Drawing shapes"):
        rng = np.random.default_rng([options.seed, SPLITS.index(split), number])
        picture, classes, outlines = draw_scene(rng, options.size)
        write_image(folder / "images" / split / f"{number:05d}.jpg", picture)
        rows = [_row(cls, outline, options.segments) for cls, outline in zip(classes, outlines)]
        (folder / "labels" / split / f"{number:05d}.txt").write_text("".join(rows), encoding="utf-8")
    (folder / MANIFEST).write_text(json.dumps(_manifest_of(options), indent=1), encoding="utf-8")


def _row(cls: int, outline: np.ndarray, segments: bool) -> str:
    low, high = outline.min(0), outline.max(0)
    numbers = outline.ravel() if segments else np.concatenate(((low + high) / 2, high - low))
    return f"{cls} {' '.join(f'{number:.6f}' for number in numbers)}\n"


def _replace(root: Path, new: Path, options: ShapesOptions) -> None:
    """Put `new` in the place of `root`; another process that was faster with the same drawing wins."""
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


# The scene, from back to front. All coordinates are pixels (x, y) of the fine canvas.


def _colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float], hue: float | None = None
) -> np.ndarray:
    """(3,) float32 RGB 0..255 of a hue in degrees, any unless given."""
    hue = rng.uniform(0, 360) if hue is None else hue % 360
    hsv = np.array([[[hue, rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255


def _noise(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """(side, side) float32 in -1..1 that varies on a grid of `cells`."""
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC).clip(-1, 1)


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """(side, side, 3) uint8: two colours that run into each other, mottled and perhaps striped."""
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]
    mottle = 0.9 * _noise(rng, side, 4) + 0.5 * _noise(rng, side, 11) + 0.3 * _noise(rng, side, 40)
    mix = (0.5 + 0.3 * across + 0.35 * mottle).clip(0, 1)[..., None]
    first, second = (_colour(rng, (0.05, 0.5), (0.25, 0.9)) for _ in range(2))
    picture = first * mix + second * (1 - mix)
    if rng.random() < 0.5:
        period = rng.uniform(0.03, 0.12)
        bands = np.sin((np.cos(angle) * ramp[:, None] - np.sin(angle) * ramp[None, :]) * np.pi / period)
        picture += rng.uniform(5, 22) * bands[..., None]
    picture += 10 * _noise(rng, side, side // 3)[..., None]
    return picture.clip(0, 255).astype(np.uint8)


def _clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Things that are no objects: lines, arcs, crosses and specks."""
    side = len(canvas)
    for _ in range(rng.integers(5, 14)):
        colour = tuple(map(float, _colour(rng, (0.1, 0.9), (0.2, 1.0))))
        point, other = (tuple(map(int, rng.integers(0, side, 2))) for _ in range(2))
        width = int(rng.integers(1, 5))
        kind = rng.integers(4)
        if kind == 0:
            cv2.line(canvas, point, other, colour, width, cv2.LINE_AA)
        elif kind == 1:
            axes = tuple(map(int, rng.integers(side // 30, side // 5, 2)))
            turn, start = rng.uniform(0, 360, 2)
            cv2.ellipse(canvas, point, axes, turn, start, start + rng.uniform(40, 150), colour, width, cv2.LINE_AA)
        elif kind == 2:
            cv2.drawMarker(
                canvas,
                point,
                colour,
                int(rng.choice([cv2.MARKER_CROSS, cv2.MARKER_TILTED_CROSS])),
                int(rng.integers(side // 40, side // 14)),
                width,
                cv2.LINE_AA,
            )
        else:
            for speck in rng.normal(point, side / 25, (int(rng.integers(4, 12)), 2)):
                cv2.circle(
                    canvas, tuple(map(int, speck)), int(rng.integers(1, side // 110 + 2)), colour, -1, cv2.LINE_AA
                )


def _places(rng: np.random.Generator, side: int) -> list[tuple[np.ndarray, float]]:
    """(centre, radius) of each object: some touch or overlap, none sits on top of another."""
    places = []
    for _ in range(rng.integers(2, 7)):
        radius = side * rng.uniform(0.09, 0.22)
        for _ in range(20):
            centre = rng.uniform(0.03 * side, 0.97 * side, 2)
            if all(np.linalg.norm(centre - other) > 0.8 * (radius + size) for other, size in places):
                places.append((centre, radius))
                break
    return places


def _outline(rng: np.random.Generator, name: str, radius: float) -> np.ndarray:
    """(k, 2) float64 corners of a shape about (0, 0), turned and slightly stretched."""
    count, inner = {"disc": (48, 1.0), "triangle": (3, 1.0), "square": (4, 1.0), "star": (10, 0.45)}[name]
    angles = np.arange(count) * 2 * np.pi / count
    reach = np.where(np.arange(count) % 2, inner, 1.0) * radius
    points = np.stack((np.cos(angles), np.sin(angles)), 1) * reach[:, None]
    start = np.pi / 4 if name == "square" else 0.0  # so that a square is stretched along its sides
    return points @ _turn(start) @ np.diag([1.0, rng.uniform(0.75, 1.0)]) @ _turn(rng.uniform(0, 2 * np.pi))


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _fixed(points: np.ndarray) -> np.ndarray:
    """Points as cv2 wants them with _SHIFT fractional bits."""
    return np.round(points * 2**_SHIFT).astype(np.int32)[None]


def _paint_object(
    rng: np.random.Generator, canvas: np.ndarray, owner: np.ndarray, outline: np.ndarray, number: int, hue: float
) -> float:
    """Draw an object of about a hue with a shadow and a shaded, textured face; return its area in pixels, with what
    lies outside the canvas. Only the patch around the object is touched.
    """
    margin, side = 16, len(canvas)
    left, top = (int(value) for value in np.maximum(outline.min(0) - margin, 0))
    right, bottom = (int(value) for value in np.minimum(outline.max(0) + margin, side))
    patch, fixed = canvas[top:bottom, left:right], _fixed(outline - (left, top))
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SHIFT)
    inside = mask > 127
    colour = _contrasting(rng, patch[inside].mean(0) if inside.any() else np.full(3, 127.0), hue)
    shadow = cv2.warpAffine(mask, np.float32([[1, 0, rng.uniform(1, 9)], [0, 1, rng.uniform(1, 9)]]), mask.shape[::-1])
    shaded = patch * (1 - cv2.blur(shadow, (9, 9))[..., None] * np.float32(0.4 / 255))
    alpha = mask[..., None] / np.float32(255)
    patch[:] = (shaded * (1 - alpha) + _face(rng, colour, *mask.shape) * alpha).astype(np.uint8)
    if rng.random() < 0.5:
        edge = tuple(map(float, (colour * rng.uniform(0.3, 0.7)).clip(0, 255)))
        cv2.polylines(patch, fixed, True, edge, int(rng.integers(2, 6)), cv2.LINE_AA, _SHIFT)
    owner[top:bottom, left:right][inside] = number
    return float(cv2.contourArea(outline.astype(np.float32)))


def _face(rng: np.random.Generator, colour: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32 of one colour, lit from a side and mottled."""
    slope = rng.uniform(-0.2, 0.2, 2).astype(np.float32)
    across, down = (np.linspace(-1, 1, length, dtype=np.float32) for length in (width, height))
    light = slope[0] * across + slope[1] * down[:, None]
    mottle = _noise(rng, max(height, width), max(height, width) // 8 + 2)[:height, :width]
    return (colour * (1 + light + np.float32(rng.uniform(0, 0.18)) * mottle)[..., None]).clip(0, 255)


def _contrasting(rng: np.random.Generator, behind: np.ndarray, favourite: float) -> np.ndarray:
    """A colour that can be told from the one behind it, mostly near the favourite hue."""
    hue = rng.normal(favourite, 25) if rng.random() < _LOYAL else None
    tries = [_colour(rng, (0.35, 1.0), (0.35, 1.0), hue) for _ in range(8)]
    distances = [float(np.linalg.norm(colour - behind)) for colour in tries]
    return next(
        (colour for colour, distance in zip(tries, distances) if distance > 90), tries[int(np.argmax(distances))]
    )


def _occlude(rng: np.random.Generator, canvas: np.ndarray, owner: np.ndarray) -> None:
    """Up to two bars across the scene, in front of everything."""
    side = len(canvas)
    for _ in range(rng.integers(0, 3)):
        middle, angle = rng.uniform(0, side, 2), rng.uniform(0, np.pi)
        along, width = np.array([np.cos(angle), np.sin(angle)]), side * rng.uniform(0.012, 0.04)
        across = np.array([-along[1], along[0]]) * width
        reach = along * side * rng.uniform(0.2, 0.8)
        bar = np.array(
            [middle - reach - across, middle + reach - across, middle + reach + across, middle - reach + across]
        )
        cv2.fillPoly(canvas, _fixed(bar), tuple(map(float, _colour(rng, (0.0, 0.6), (0.1, 0.8)))), cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(owner, _fixed(bar), -1, cv2.LINE_8, _SHIFT)


def _photograph(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Light, lens and sensor: exposure, vignette, blur, noise."""
    side = len(picture)
    ramp = np.linspace(-1, 1, side, dtype=np.float32) ** 2
    vignette = 1 - rng.uniform(0, 0.25) * (ramp[None, :] + ramp[:, None])
    exposed = picture * np.float32(rng.uniform(0.75, 1.2) * vignette[..., None])
    blurred = cv2.GaussianBlur(exposed, (0, 0), rng.uniform(0.2, 0.9))
    noise = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(1, 6))
    return (blurred + noise).clip(0, 255).astype(np.uint8)
