"""Small functions of YOLOv5's utils.general: paths, texts, seeds, weights of classes, stopwatches."""

import contextlib
import glob
import inspect
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from utils import log
from utils.checkpoint import strip
from utils.compat.box_functions import scale_coords, xywh2xyxy, xyxy2xywh
from utils.config.yaml_files import read_yaml
from utils.device import synchronize
from utils.files import ROOT, write_text_atomically

DATASETS_DIR = ROOT.parent / "datasets"
NUM_THREADS = min(8, max(1, (os.cpu_count() or 2) - 1))
VERBOSE = True
_COLORS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_CODES = {
    **{name: f"\033[{30 + code}m" for code, name in enumerate(_COLORS)},
    **{f"bright_{name}": f"\033[{90 + code}m" for code, name in enumerate(_COLORS)},
    **{"end": "\033[0m", "bold": "\033[1m", "underline": "\033[4m"},
}
_COLOR_CODE = re.compile(r"\x1b\[\d+m")
_WITHOUT_CATEGORY = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids of COCO's papers that its boxes do not use
_CLASSIFIER_SIDE = 224  # pixels
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class ScriptLogger(logging.LoggerAdapter):
    """The project's logger for scripts that never set one up: before its first message it writes to standard output.

    Colors of `colorstr` are left out, as the project's messages hold no control characters.
    """

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Return a message without codes of colors.

        Args:
            msg: The message.
            kwargs: Of the call.

        Returns:
            Both.
        """
        return _COLOR_CODE.sub("", str(msg)), kwargs

    def isEnabledFor(self, level: int) -> bool:
        """Return whether a message of this level is written."""
        if not self.logger.hasHandlers():
            log.configure()
        return self.logger.isEnabledFor(level)


LOGGER = ScriptLogger(log.LOGGER, {})


def set_logging(name: str | int | None = None, verbose: bool = True) -> ScriptLogger:
    """Send the project's messages to standard output and return the logger.

    Args:
        name: Not used; in v5 it was a rank.
        verbose: Whether messages below warnings are shown.

    Returns:
        The logger.
    """
    log.configure(logging.INFO if verbose else logging.WARNING)
    return LOGGER


class Profile(contextlib.ContextDecorator):
    """A stopwatch for `with` blocks: `dt` is the time of the last, `t` the sum, in seconds; waits for CUDA.

    Args:
        t: The sum to start with.
        device: Whose queued work is waited for; by default CUDA's if there is one.
    """

    def __init__(self, t: float = 0.0, device: torch.device | None = None):
        self.t, self.dt = t, 0.0
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def __enter__(self):
        self.start = self.time()
        return self

    def __exit__(self, *_):
        self.dt = self.time() - self.start
        self.t += self.dt

    def time(self) -> float:
        """Return the seconds of a clock once queued work is done."""
        synchronize(self.device)
        return time.perf_counter()


def colorstr(*input: str) -> str:
    """Return a text in a color of the terminal: the last argument in the styles before it, by default blue and bold."""
    *styles, text = input if len(input) > 1 else ("blue", "bold", input[0])
    return "".join(_CODES[style] for style in styles) + f"{text}{_CODES['end']}"


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """Return a path that does not exist: runs/exp, else runs/exp2, runs/exp3, ..., one beyond the largest number.

    Args:
        path: A folder or a file, whose suffix stays.
        exist_ok: Whether the path is returned even if it exists.
        sep: Between name and number.
        mkdir: Whether the folder is made.

    Returns:
        The path.
    """
    path = Path(path)
    if path.exists() and not exist_ok:
        suffix = path.suffix if path.is_file() else ""
        stem = str(path.with_suffix("")) if suffix else str(path)
        numbered = re.compile(re.escape(Path(stem).name + sep) + r"(\d+)")
        matches = (numbered.match(Path(other).name) for other in glob.glob(f"{glob.escape(stem + sep)}*"))
        path = Path(f"{stem}{sep}{max((int(found[1]) for found in matches if found), default=1) + 1}{suffix}")
    if mkdir:
        path.mkdir(parents=True, exist_ok=True)
    return path


def get_latest_run(search_dir: str | Path = ".") -> str:
    """Return the newest last*.pt below a folder, "" if there is none."""
    found = glob.glob(f"{search_dir}/**/last*.pt", recursive=True)
    return max(found, key=os.path.getctime) if found else ""


def clean_str(s: str) -> str:
    """Return a text with an underscore in place of each character that makes trouble in names of files."""
    return re.sub(r"[|@#!¡·$€%&()=?¿^*;:,¨´><+]", "_", s)


def url2file(url: str) -> str:
    """Return the name of the file at an address."""
    return Path(str(url).partition("?")[0]).name


def file_size(path: str | Path) -> float:
    """Return the size of a file, or of the files below a folder, in MiB; 0 if there is none."""
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.glob("**/*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / (1 << 20)


def is_ascii(s: Any = "") -> bool:
    """Return whether the text of a value is ASCII."""
    return str(s).isascii()


def is_chinese(s: Any = "") -> bool:
    """Return whether the text of a value holds a Chinese character."""
    return bool(re.search("[\u4e00-\u9fff]", str(s)))


def methods(instance: object) -> list[str]:
    """Return the names of an object's methods, those of Python left out."""
    return [name for name in dir(instance) if callable(getattr(instance, name)) and not name.startswith("__")]


def print_args(args: Any = None, *more: Any, show_file: bool = True, show_func: bool = False) -> None:
    """Log the arguments of a script or function in one line.

    Args:
        args: A mapping or namespace; None for the arguments of the caller; in v6.1 a name that `more` follows.
        *more: v6.1's namespace.
        show_file: Whether the caller's file is named.
        show_func: Whether the caller's function is named.
    """
    frame = inspect.currentframe()
    caller = frame.f_back if frame else None
    title = ""
    if isinstance(args, str):
        title, args = args, more[0] if more else {}
    elif caller is not None:
        title = Path(caller.f_code.co_filename).stem * show_file + f" {caller.f_code.co_name}" * show_func
    if args is None:
        known = inspect.getargvalues(caller) if caller is not None else None
        args = {name: known.locals[name] for name in known.args} if known else {}
    values: Mapping[str, Any] = args if isinstance(args, Mapping) else vars(args)
    LOGGER.info(colorstr(f"{title}: ") + ", ".join(f"{name}={value}" for name, value in values.items()))


def init_seeds(seed: int = 0, deterministic: bool = False) -> None:
    """Seed the random generators of Python, numpy and torch.

    Args:
        seed: Of all of them.
        deterministic: Whether torch may use deterministic algorithms alone.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def one_cycle(y1: float = 0.0, y2: float = 1.0, steps: int = 100) -> Callable[[float], float]:
    """Return a half cosine as a function of the step.

    Args:
        y1: Its value at step 0.
        y2: Its value at the last step.
        steps: Their number.

    Returns:
        The function.
    """
    return lambda x: y1 + (y2 - y1) * (1 - float(np.cos(x * np.pi / steps))) / 2


def labels_to_class_weights(labels: Sequence[np.ndarray], nc: int = 80) -> Tensor:
    """Return one weight per class, inverse to its number of objects; they add up to 1.

    Args:
        labels: (n, 5) per image, the class id first.
        nc: Number of classes.

    Returns:
        (nc,) float64; empty if there are no labels.
    """
    if not len(labels) or labels[0] is None:
        return torch.Tensor()
    classes = np.concatenate(list(labels), 0)[:, 0].astype(int)
    weights = 1 / np.maximum(np.bincount(classes, minlength=nc), 1)
    return torch.from_numpy(weights / weights.sum())


def labels_to_image_weights(
    labels: Sequence[np.ndarray], nc: int = 80, class_weights: np.ndarray | None = None
) -> np.ndarray:
    """Return one weight per image: the sum of the weights of its objects' classes.

    Args:
        labels: (n, 5) per image, the class id first.
        nc: Number of classes.
        class_weights: (nc,), ones if None.

    Returns:
        (images,).
    """
    weights = np.ones(nc) if class_weights is None else np.asarray(class_weights).reshape(nc)
    counts = np.array([np.bincount(each[:, 0].astype(int), minlength=nc) for each in labels]).reshape(-1, nc)
    return counts @ weights


def coco80_to_coco91_class() -> list[int]:
    """Return COCO's category id of each of the 80 class ids."""
    return [category for category in range(1, 91) if category not in _WITHOUT_CATEGORY]


def intersect_dicts(da: Mapping[str, Any], db: Mapping[str, Any], exclude: Iterable[str] = ()) -> dict[str, Any]:
    """Return the tensors of a state dict that another has too, with the same shape.

    Args:
        da: The state dict.
        db: The other.
        exclude: Parts of names that are left out.

    Returns:
        Name -> value of `da`.
    """
    left_out = tuple(exclude)
    return {
        name: value
        for name, value in da.items()
        if name in db and not any(part in name for part in left_out) and value.shape == db[name].shape
    }


def strip_optimizer(f: str | Path = "best.pt", s: str | Path = "") -> None:
    """Write a checkpoint of ours without its training state, and report its size.

    Args:
        f: The checkpoint.
        s: The file to write; "" replaces `f`.
    """
    written = strip(f, s or None)
    LOGGER.info(f"Optimizer stripped from {f},{f' saved as {s},' if s else ''} {file_size(written):.1f}MB")


def apply_classifier(
    x: list[Tensor], model: nn.Module, img: Tensor, im0: np.ndarray | list[np.ndarray]
) -> list[Tensor]:
    """Return only those detections in whose crop a second network sees the same class.

    Args:
        x: (n, 6) rows per image in pixels of `img`, boxes as they are.
        model: From (n, 3, 224, 224) to class scores.
        img: (B, 3, H, W) the network's input.
        im0: The images (H, W, 3) uint8 BGR, one or a list.

    Returns:
        The rows that stay, per image.
    """
    images = [im0] if isinstance(im0, np.ndarray) else im0
    for index, rows in enumerate(x):
        if rows is None or not len(rows):
            continue
        square = xyxy2xywh(rows)
        square[:, 2:4] = square[:, 2:4].max(1, keepdim=True).values * 1.3 + 30  # room around the object
        corners = xywh2xyxy(square)[:, :4].clone()
        scale_coords(img.shape[2:], corners, images[index].shape)
        crops = [_classifier_input(images[index], box) for box in corners.long().tolist()]
        seen = model(torch.from_numpy(np.stack(crops)).to(rows.device)).argmax(1)
        x[index] = rows[rows[:, 5].long() == seen]
    return x


def _classifier_input(image: np.ndarray, box: Sequence[int]) -> np.ndarray:
    left, top, right, bottom = box
    crop = cv2.resize(image[top : max(bottom, top + 1), left : max(right, left + 1)], (_CLASSIFIER_SIDE,) * 2)
    planes = crop[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 255
    return ((planes - np.reshape(_MEAN, (3, 1, 1))) / np.reshape(_DEVIATION, (3, 1, 1))).astype(np.float32)


def imread(filename: str | Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Return an image file as OpenCV reads it (BGR), also if its name is not ASCII; None if it cannot be read.

    Args:
        filename: The file.
        flags: OpenCV's.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    try:
        return cv2.imdecode(np.fromfile(filename, np.uint8), flags)
    except (OSError, cv2.error):
        return None


def imwrite(filename: str | Path, img: np.ndarray) -> bool:
    """Write a BGR image, also if the file's name is not ASCII.

    Args:
        filename: The file; its suffix decides the format.
        img: (H, W, 3) uint8 BGR.

    Returns:
        Whether it was written.
    """
    try:
        cv2.imencode(Path(filename).suffix, img)[1].tofile(filename)
        return True
    except (OSError, cv2.error):
        return False


def yaml_load(file: str | Path = "data.yaml") -> dict[str, Any]:
    """Return the content of a yaml."""
    return dict(read_yaml(Path(file)))


def yaml_save(file: str | Path = "data.yaml", data: Mapping[str, Any] | None = None) -> None:
    """Write a yaml.

    Args:
        file: The file.
        data: Plain values; paths become text.
    """
    import yaml

    plain = {name: str(value) if isinstance(value, Path) else value for name, value in (data or {}).items()}
    write_text_atomically(file, yaml.safe_dump(plain, sort_keys=False))
