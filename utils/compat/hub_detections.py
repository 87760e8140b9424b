"""`HubDetections`: what `AutoShape` answers, with the attributes and methods of v6.1's `Detections`."""

import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.boxes import xyxy_to_xywh
from utils.datasets.output_names import unique_names
from utils.datasets.sources import Frame
from utils.engine.prediction_views import has_display
from utils.engine.prediction_writers import Artist, CropWriter, ImageWriter
from utils.engine.predictor import Prediction
from utils.errors import ConfigError
from utils.files import new_run_dir
from utils.log import LOGGER, messages_shown, warn_once
from utils.types import Detections, Speeds

DEFAULT_FOLDER = "runs/detect/exp"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_CENTERS = ("xcenter", "ycenter", "width", "height")
_FORMATS = {"xyxy": _CORNERS, "xyxyn": _CORNERS, "xywh": _CENTERS, "xywhn": _CENTERS}


class HubDetections:
    """The detections of one image or of several, in pixels of each.

    Args:
        imgs: (H, W, 3) uint8 RGB images.
        pred: One (n, 6) tensor per image: xyxy pixels, confidence, class id; by falling confidence.
        files: One file name per image.
        times: Seconds on a clock: before the first image was prepared, after that, after the network, after NMS.
        names: Class names by class id.
        shape: (B, 3, H, W) of the network's input; of images of different shapes the largest H and W.

    Attributes:
        ims: The images; `render` draws into this list. `imgs` is the same list.
        pred: As given; `xyxy` is the same.
        xyxyn: The same with xyxy in 0..1 of each image; xywh and xywhn have centers and sizes.
        names: As given.
        files: As given.
        times: As given.
        n: Number of images.
        t: Milliseconds per image: preparing, network, NMS.
        s: As `shape`.
    """

    def __init__(
        self,
        imgs: Sequence[np.ndarray],
        pred: Sequence[Tensor],
        files: Sequence[str],
        times: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        names: Sequence[str] | dict[int, str] | None = None,
        shape: Sequence[int] | None = None,
    ):
        self.ims = list(imgs)
        self.imgs = self.ims
        self.pred, self.files, self.times = list(pred), list(files), tuple(times)
        self.names = names if names is not None else []
        self.n = len(self.pred)
        self.t = tuple(
            (after - before) * 1000 / max(self.n, 1) for before, after in zip(times, times[1:], strict=False)
        )
        self.s = tuple(shape) if shape is not None else None
        self.xyxy: list[Any] = self.pred  # tensors; DataFrames in what pandas() returns
        self.xywh: list[Any] = [_centered(rows) for rows in self.pred]
        self.xyxyn: list[Any] = [_normalized(rows, image) for rows, image in zip(self.xyxy, imgs, strict=True)]
        self.xywhn: list[Any] = [_normalized(rows, image) for rows, image in zip(self.xywh, imgs, strict=True)]
        self._originals = list(imgs)

    @classmethod
    def of(
        cls, predictions: Sequence[Prediction], names: Sequence[str], device: torch.device | str = "cpu"
    ) -> "HubDetections":
        """Return the results of predictions.

        Args:
            predictions: One per image.
            names: Class names by class id.
            device: Where the tensors are put.

        Returns:
            The results.
        """
        sums = [sum(each.times.row()[part] for each in predictions) / 1000 for part in range(3)]
        times = (0.0, *(sum(sums[: part + 1]) for part in range(3)))
        height, width = (max((each.shape[side] for each in predictions), default=0) for side in (0, 1))
        return cls(
            [each.frame.image for each in predictions],
            [each.rows().to(device) for each in predictions],
            [each.frame.name for each in predictions],
            times,
            list(names),
            (len(predictions), 3, height, width),
        )

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator["HubDetections"]:
        return iter(self.tolist())

    def __getitem__(self, index: int) -> "HubDetections":
        return self.tolist()[index]

    def __str__(self) -> str:
        lines = [
            f"image {index + 1}/{self.n}: {each.frame.image.shape[0]}x{each.frame.image.shape[1]} "
            f"{each.summary().removesuffix(', ') or '(no detections)'}"
            for index, each in enumerate(self._predictions())
        ]
        if self.n and len(self.t) == 3:
            pre, inference, nms = self.t
            lines.append(
                f"Speed: {pre:.1f}ms pre-process, {inference:.1f}ms inference, {nms:.1f}ms NMS per image "
                f"at shape {self.s}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"HubDetections of {self.n} images\n{self}"

    def tolist(self) -> list["HubDetections"]:
        """Return the results of each image as results of their own."""
        shape = (1, *self.s[1:]) if self.s else None
        times = [each / max(self.n, 1) for each in self.times]
        parts = []
        for index in range(self.n):
            part = HubDetections(
                [self._originals[index]], [self.pred[index]], [self.files[index]], times, self.names, shape
            )
            part.ims[0] = self.ims[index]
            parts.append(part)
        return parts

    def print(self) -> None:
        """Print one line per image, and the times."""
        print(self)

    def show(self, labels: bool = True) -> None:
        """Show each image with its boxes: in a notebook below the cell, else in the system's viewer."""
        from PIL import Image

        in_notebook = hasattr(sys.modules.get("IPython"), "get_ipython") and _runs_in_notebook()
        if not in_notebook and not has_display():
            warn_once("show(): there is no display here; save() writes the images")
            return
        for image, name in zip(self._drawn(labels), self.files, strict=True):
            image_shown = Image.fromarray(image)
            if in_notebook:
                from IPython.display import display

                display(image_shown)
            else:
                image_shown.show(name)

    def save(self, labels: bool = True, save_dir: str | Path = DEFAULT_FOLDER, exist_ok: bool | None = None) -> Path:
        """Write each image with its boxes, and return the folder.

        Args:
            labels: Write class names and confidences too.
            save_dir: The folder. The default is numbered (exp2, exp3, ...), as any is with `exist_ok=False`.
            exist_ok: Write into a folder that exists; None does so for each but the default.

        Returns:
            The folder; images of one file name are numbered.
        """
        folder = _folder(save_dir, exist_ok)
        writer = ImageWriter(folder, Artist(folder, hide_labels=not labels))
        for prediction in self._predictions(unique=True):
            writer.after_frame(prediction)
        writer.close()
        with messages_shown():
            LOGGER.info(f"Saved {self.n} image{'s' * (self.n != 1)} to {folder}")
        return folder

    def crop(
        self, save: bool = True, save_dir: str | Path = DEFAULT_FOLDER, exist_ok: bool | None = None
    ) -> list[dict[str, Any]]:
        """Return the part of the image in each box, enlarged a little, and write it to save_dir/crops/<class>.

        Args:
            save: Write the files.
            save_dir: As of `save`.
            exist_ok: As of `save`.

        Returns:
            Per box, the least confident of an image first: box (4 numbers of a tensor), conf, cls, label, and im
            (h, w, 3) uint8, in BGR as v6.1 has it.
        """
        writer = CropWriter(_folder(save_dir, exist_ok) if save else Path())
        found = []
        for rows, prediction in zip(self.pred, self._predictions(unique=True), strict=True):
            if save:
                writer.after_frame(prediction)
            cut_out = [image for image, _ in writer.crops(prediction)]
            for row, image in reversed(list(zip(rows, cut_out, strict=True))):
                label = f"{prediction.name_of(int(row[5]))} {float(row[4]):.2f}"
                im = np.ascontiguousarray(image[..., ::-1])
                found.append({"box": row[:4], "conf": row[4], "cls": row[5], "label": label, "im": im})
        return found

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """Put each image with its boxes in `ims`, and return that list."""
        self.ims[:] = self._drawn(labels)
        return self.ims

    def display(
        self,
        pprint: bool = False,
        show: bool = False,
        save: bool = False,
        crop: bool = False,
        render: bool = False,
        labels: bool = True,
        save_dir: str | Path = DEFAULT_FOLDER,
    ) -> list[dict[str, Any]] | None:
        """Do several of the above in one call.

        Args:
            pprint: As `print`.
            show: As `show`.
            save: As `save`; of `crop`, write the files.
            crop: As `crop`.
            render: As `render`.
            labels: Write class names and confidences.
            save_dir: The folder.

        Returns:
            The crops if asked for.
        """
        if pprint:
            self.print()
        if show:
            self.show(labels)
        if crop:
            return self.crop(save, save_dir)
        if save:
            self.save(labels, save_dir)
        if render:
            self.render(labels)
        return None

    def pandas(self) -> "HubDetections":
        """Return a copy whose xyxy, xyxyn, xywh and xywhn are lists of pandas DataFrames.

        Raises ConfigError if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("results.pandas(): pandas is not installed; pip install pandas") from None
        tables = copy.copy(self)
        for name, columns in _FORMATS.items():
            rows = [self._named_rows(each) for each in getattr(self, name)]
            header = [*columns, "confidence", "class", "name"]
            setattr(tables, name, [pandas.DataFrame(each, columns=header) for each in rows])
        return tables

    def to_supervision(self) -> list[Any]:
        """Return one `supervision.Detections` per image. Raises ConfigError if supervision is not installed."""
        try:
            import supervision
        except ImportError:
            raise ConfigError(
                "results.to_supervision(): supervision is not installed; pip install supervision"
            ) from None
        found = []
        for rows in self.pred:
            values = rows.detach().cpu().float().numpy()
            ids = values[:, 5].astype(int)
            names = np.array([_name_in(self.names, class_id) for class_id in ids], dtype=object)
            found.append(
                supervision.Detections(
                    xyxy=values[:, :4], confidence=values[:, 4], class_id=ids, data={"class_name": names.astype(str)}
                )
            )
        return found

    def _named_rows(self, rows: Tensor) -> list[list[Any]]:
        return [[*row[:5], int(row[5]), _name_in(self.names, int(row[5]))] for row in rows.tolist()]

    def _drawn(self, labels: bool) -> list[np.ndarray]:
        artist = Artist(Path(), hide_labels=not labels)
        return [artist(prediction) for prediction in self._predictions()]

    def _predictions(self, unique: bool = False) -> Iterator[Prediction]:
        """Yield the results as records of the predictor, for its writers.

        Args:
            unique: Give images of one file name different ones.

        Yields:
            One per image.
        """
        names = unique_names(self.files) if unique else self.files
        class_names = tuple(self.names.values() if isinstance(self.names, dict) else self.names)
        shape = (int(self.s[2]), int(self.s[3])) if self.s else (0, 0)
        for index, (image, rows, name) in enumerate(zip(self._originals, self.pred, names, strict=True)):
            rows = rows.detach().cpu().float()
            found = Detections(rows[:, :4], rows[:, 4], rows[:, 5].long())
            frame = Frame(image, name, name, "image", index, self.n)
            yield Prediction(frame, found, class_names, shape, Speeds(0.0, 0.0, 0.0))


def _centered(rows: Tensor) -> Tensor:
    return torch.cat((xyxy_to_xywh(rows[:, :4]), rows[:, 4:]), 1)


def _normalized(rows: Tensor, image: np.ndarray) -> Tensor:
    height, width = image.shape[:2]
    return rows / rows.new_tensor((width, height, width, height, 1, 1))


def _name_in(names: Sequence[str] | dict[int, str], class_id: int) -> str:
    known = names if isinstance(names, dict) else dict(enumerate(names))
    return known.get(class_id, str(class_id))


def _folder(save_dir: str | Path, exist_ok: bool | None) -> Path:
    folder = Path(save_dir)
    return new_run_dir(
        folder.parent, folder.name, exist_ok=str(folder) != DEFAULT_FOLDER if exist_ok is None else exist_ok
    )


def _runs_in_notebook() -> bool:
    return type(sys.modules["IPython"].get_ipython()).__name__ == "ZMQInteractiveShell"
