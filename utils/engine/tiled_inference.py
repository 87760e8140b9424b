"""Tiled inference: the tiles of a large image predicted from its own pixels, their boxes merged with the whole image's.

detect.py, val.py and compare.py all come here (docs/slicing.md).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from models.inference import largest_stride
from utils.config import EvalOptions, PredictOptions, Slicing
from utils.datasets.letterboxing import letterbox
from utils.device import Timer, autocast, network_input
from utils.engine.image_tiles import ImageTile, tiles_of
from utils.engine.tile_merging import merge_views
from utils.images import read_image
from utils.metrics.average_precision import ImageResult
from utils.nms import non_max_suppression
from utils.runtimes.network import fixed_shape
from utils.types import Batch, Detections

PIXELS_AT_ONCE = 8 * 640 * 640  # of tiles in one batch, so that memory does not grow with the image
IMAGES_AHEAD = 2  # native images that are read while another is predicted


@dataclass(frozen=True)
class TiledInference:
    """How the tiles of images are predicted and merged.

    Attributes:
        model: The network, on its device.
        slicing: Size, overlap and merging.
        suppress: From decoded predictions (B, N, 5+nc) to one record per tile.
        agnostic: Whether boxes of different classes may be of one object.
        max_det: Most detections per image.
        augment: Test-time augmentation of each tile.
        mixed: The type of mixed precision, None for the network's own.
    """

    model: nn.Module
    slicing: Slicing
    suppress: Callable[[Tensor], Sequence[Detections]]
    agnostic: bool = False
    max_det: int = 300
    augment: bool = False
    mixed: torch.dtype | None = None

    @staticmethod
    def of_frames(model: nn.Module, options: PredictOptions) -> "TiledInference | None":
        """Return how tiles of frames are predicted, None without --slice.

        Args:
            model: The network.
            options: How frames are predicted; classes are ids.

        Returns:
            The same thresholds and classes as for whole frames.
        """
        if options.slicing is None:
            return None
        suppress = partial(
            non_max_suppression,
            conf_thres=options.conf_thres,
            iou_thres=options.iou_thres,
            classes=None if options.classes is None else [int(class_id) for class_id in options.classes],
            agnostic=options.agnostic,
            multi_label=options.multi_label,
            max_det=options.max_det,
        )
        return TiledInference(
            model, options.slicing, suppress, options.agnostic, options.max_det, augment=options.augment
        )

    def splits(self, shape: tuple[int, int]) -> bool:
        """Return whether an image of (height, width) pixels has several tiles; if not, it is predicted as usual."""
        return max(shape) > self.slicing.size

    def needs_whole(self, shape: tuple[int, int]) -> bool:
        """Return whether an image of (height, width) pixels is predicted as a whole."""
        return not (self.slicing.only and self.splits(shape))

    def input_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) of the network input that a tile of an image of `shape` is centered in."""
        fixed, stride = fixed_shape(self.model), largest_stride(self.model)
        height, width = (-(-min(side, self.slicing.size) // stride) * stride for side in shape)
        return fixed or (height, width)

    def merged(self, image: np.ndarray, whole: Detections | None, timers: Sequence[Timer]) -> Detections:
        """Return the detections of an image: those of its tiles and of the whole image, merged.

        Args:
            image: (H, W, 3) uint8 RGB, in native pixels.
            whole: Of the whole image, in its pixels; None if it was not predicted.
            timers: Seconds for making inputs, for the network, and for suppression and merging are added to them.

        Returns:
            In pixels of the image, on the CPU; `whole` itself if the image is no larger than a tile.
        """
        height, width = image.shape[:2]
        if whole is not None and not self.splits((height, width)):
            return whole.cpu()
        tiles = tiles_of((height, width), self.slicing.size, self.slicing.overlap)
        found = [one for part in self._parts(tiles) for one in self._detected(image, part, timers)]
        with timers[2]:
            views = [*tiles, ImageTile(0, 0, width, height)] if whole is not None else tiles
            found += [whole.cpu()] if whole is not None else []
            return merge_views(found, views, (height, width), self.slicing, self.agnostic, self.max_det)

    @staticmethod
    def _parts(tiles: Sequence[ImageTile]) -> Iterator[Sequence[ImageTile]]:
        height, width = tiles[0].shape
        count = max(PIXELS_AT_ONCE // (height * width), 1)
        yield from (tiles[start : start + count] for start in range(0, len(tiles), count))

    def _detected(self, image: np.ndarray, tiles: Sequence[ImageTile], timers: Sequence[Timer]) -> list[Detections]:
        """The detections of tiles of one shape, in pixels of the image, on the CPU."""
        first = next(self.model.parameters())
        shape, is_fixed = self.input_shape(tiles[0].shape), fixed_shape(self.model) is not None
        with timers[0]:
            inputs = [
                letterbox(image[top:bottom, left:right], shape, scale_up=is_fixed)  # the size of a file is its own
                for left, top, right, bottom in tiles
            ]
            pixels = torch.from_numpy(np.stack([canvas for canvas, _ in inputs])).permute(0, 3, 1, 2)
            images = network_input(pixels, first.device, half=first.dtype == torch.float16)
        with timers[1], autocast(first.device, self.mixed):
            decoded, _ = self.model(images, augment=self.augment)
        with timers[2]:
            found = [one.cpu() for one in self.suppress(decoded)]
            return [
                _moved(one.to_native(placed), tile) for one, (_, placed), tile in zip(found, inputs, tiles, strict=True)
            ]


@dataclass(frozen=True)
class TiledBatches:
    """The tiles of the images of an evaluation's batches, read from their files at their own size.

    Attributes:
        inference: How tiles are predicted and merged.
        timers: Three, for inputs, network, and suppression with merging.
    """

    inference: TiledInference
    timers: Sequence[Timer]

    @staticmethod
    def of(
        model: nn.Module,
        options: EvalOptions,
        suppress: Callable[[Tensor], Sequence[Detections]],
        mixed: torch.dtype | None,
        timers: Sequence[Timer],
    ) -> "TiledBatches | None":
        """Return the tiles of an evaluation, None without --slice.

        Args:
            model: The network.
            options: How it is evaluated.
            suppress: The evaluation's own suppression.
            mixed: The type of mixed precision, None for the network's own.
            timers: Three.

        Returns:
            What merges tiles into the detections of batches.
        """
        if options.slicing is None:
            return None
        inference = TiledInference(
            model, options.slicing, suppress, options.single_cls, options.max_det, options.augment, mixed
        )
        return TiledBatches(inference, timers)

    @property
    def only(self) -> bool:
        """Whether images with several tiles are not predicted as a whole."""
        return self.inference.slicing.only

    def count(self, results: Sequence[ImageResult]) -> int:
        """Return how many tiles the images of these results have together; an image that is not split has none."""
        slicing = self.inference.slicing
        split = (result.native for result in results if self.inference.splits(result.native))
        return sum(len(tiles_of(shape, slicing.size, slicing.overlap)) for shape in split)

    def needs_whole(self, batch: Batch) -> bool:
        """Return whether an image of the batch is predicted as a whole."""
        return any(self.inference.needs_whole(each.native) for each in batch.letterboxes)

    def merged(self, batch: Batch, whole: Sequence[Detections] | None) -> tuple[Detections, ...]:
        """Return the detections of a batch's images in their native pixels, on the CPU.

        Args:
            batch: The batch.
            whole: Per image, in its native pixels; None if `needs_whole` is False.

        Returns:
            One record per image.
        """
        split = [self.inference.splits(placed.native) for placed in batch.letterboxes]
        paths = [path for path, is_split in zip(batch.paths, split, strict=True) if is_split]
        found = []
        with ThreadPoolExecutor(1) as pool:
            images = _read_ahead(pool, paths)
            for place, is_split in enumerate(split):
                own = whole[place] if whole else None
                if is_split:
                    own = None if self.inference.slicing.only else own
                    own = self.inference.merged(next(images), own, self.timers)
                found.append(own if own is not None else Detections.none())
        return tuple(found)


def _read_ahead(pool: ThreadPoolExecutor, paths: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield images at their own size, the next ones being read meanwhile, a few at a time."""
    reading: deque[Future] = deque()
    for path in paths:
        reading.append(pool.submit(read_image, path))
        if len(reading) > IMAGES_AHEAD:
            yield reading.popleft().result()[0]
    while reading:
        yield reading.popleft().result()[0]


def _moved(found: Detections, tile: ImageTile) -> Detections:
    """Detections in pixels of a tile as pixels of its image."""
    return Detections(found.xyxy + found.xyxy.new_tensor((tile.left, tile.top) * 2), found.conf, found.cls)
