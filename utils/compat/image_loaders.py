"""YOLOv5's LoadImages, LoadStreams and LoadWebcam: frames for a network and as they are (BGR), read by our readers."""

import glob
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.compat.augmenting import letterbox
from utils.compat.everyday import clean_str
from utils.compat.unpacking import OLDER, takes_four
from utils.datasets.source_entries import LIST_SUFFIXES, is_stream, read_list, suffix_of
from utils.datasets.streams import StreamReader
from utils.datasets.video import DEFAULT_FPS, VideoReader, open_capture
from utils.errors import DataError, cut, nearest
from utils.files import is_dir, is_file
from utils.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image

IMG_FORMATS = [suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES]
VID_FORMATS = [suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES]
HELP_URL = "docs/migrating.md"
_FIRST_FRAME_SECONDS = 10.0

Transforms = Callable[[np.ndarray], Any] | None
Item = tuple[str, Any, np.ndarray, Any, str]
StreamItem = tuple[list[str], Any, list[np.ndarray], None, str]


def _bgr(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])


def _planes(im: np.ndarray) -> np.ndarray:
    """A contiguous (3, H, W) RGB array of an image (H, W, 3) BGR."""
    return np.ascontiguousarray(im.transpose(2, 0, 1)[::-1])


class LoadImages:
    """The images and videos that a path names, images first: yields (path, im, im0, cap, s), four to a loop of v5's.

    im: (3, H, W) uint8 RGB, letterboxed. im0: (H, W, 3) uint8 BGR, as read. cap: OpenCV's capture of a video, None for
    images. s: "image 1/2 /a/b.jpg: ".

    Args:
        path: A file, a folder (not those in it), a pattern, a .txt list, or several of them.
        img_size: Side of the network's input in pixels, or (height, width).
        stride: Of the network.
        auto: Whether the smallest rectangle will do.
        transforms: Applied to im0 in place of the letterbox (v7).
        vid_stride: Every n-th frame of videos (v7).

    Attributes:
        files: All of them.
        nf: Their number.
        mode: "image" or "video", of the last item.
        count: Index of the file that is read.
        frame: Of the video, from 1.
        frames: Of the video, as the file claims.
        cap: The capture of the last item.

    Raises:
        DataError: If there is no such path, or no image or video in it.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        img_size: int | Sequence[int] = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms = None,
        vid_stride: int = 1,
    ):
        files = [file for entry in _entries(path) for file in _files(entry)]
        images = [file for file in files if suffix_of(file) in IMAGE_SUFFIXES]
        videos = [file for file in files if suffix_of(file) in VIDEO_SUFFIXES]
        self.files, self.nf = images + videos, len(images) + len(videos)
        if not self.files:
            raise DataError(
                f"{cut(path)}: no images or videos found; known are {', '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}"
            )
        self.video_flag = [False] * len(images) + [True] * len(videos)
        self.img_size, self.stride, self.auto = img_size, stride, auto
        self.transforms, self.vid_stride = transforms, vid_stride
        self.mode, self.count, self.frame, self.frames = "image", 0, 0, 0
        self.cap: cv2.VideoCapture | None = None
        self._items: Iterator[Item] = iter(())

    def __len__(self) -> int:
        return self.nf

    def __iter__(self) -> "LoadImages":
        self.count = 0
        self._items = self._read()
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        return item[:OLDER] if takes_four(sys._getframe(1)) else item

    def _read(self) -> Iterator[Item]:
        for index, (file, is_video) in enumerate(zip(self.files, self.video_flag, strict=True)):
            if is_video:
                yield from self._video(index, file)
                continue
            self.mode, self.cap, self.count = "image", None, index + 1
            im0 = _bgr(read_image(file)[0])
            yield file, self._input(im0), im0, None, f"image {self.count}/{self.nf} {file}: "

    def _video(self, index: int, file: str) -> Iterator[Item]:
        self.mode, self.count = "video", index
        reader = VideoReader(file)
        self.cap, self.frames = reader.capture, reader.frames
        for number, _, image in reader.read(self.vid_stride):
            self.frame = number
            im0 = _bgr(image)
            s = f"video {index + 1}/{self.nf} ({self.frame}/{self.frames}) {file}: "
            yield file, self._input(im0), im0, self.cap, s
        self.count = index + 1

    def _input(self, im0: np.ndarray) -> Any:
        if self.transforms:
            return self.transforms(im0)
        return _planes(letterbox(im0, self.img_size, stride=self.stride, auto=self.auto)[0])


def _entries(path: str | Path | Sequence[str | Path]) -> list[str]:
    if not isinstance(path, (str, Path)):
        return [str(each) for each in path]
    return read_list(str(path)) if suffix_of(str(path)) in LIST_SUFFIXES and is_file(path) else [str(path)]


def _files(entry: str) -> list[str]:
    """The files that an entry names, with whole paths, in alphabetical order."""
    path = Path(entry).absolute()
    if "*" in entry:
        return sorted(glob.glob(str(path), recursive=True))
    if is_dir(path):
        return sorted(str(file) for file in path.iterdir() if file.suffix)
    if is_file(path):
        return [str(path)]
    beside = [file.name for file in path.parent.iterdir()] if is_dir(path.parent) else []
    raise DataError(f"{cut(entry)}: no such file or folder{nearest(path.name, beside)}")


class _Feed:
    """One source of a LoadStreams: its newest frame, or of a file the next one."""

    def __init__(self, address: str, stride: int, arrived: threading.Condition):
        self.frames, self.ended = 0.0, False
        self._reader: StreamReader | None = None
        self._video: Iterator[tuple[int, float, np.ndarray]] = iter(())
        if is_stream(address) or address.isdigit():
            self._reader = StreamReader(address, arrived=arrived, stride=stride)
            self._reader.start()
            self._reader.require_answer()
            self.fps = DEFAULT_FPS  # a stream does not say; its frames do
        else:
            file = VideoReader(address)
            self._video, self.fps, self.frames = file.read(stride), file.fps, file.frames

    def take(self) -> np.ndarray | None:
        """The next image (H, W, 3) BGR, None if there is none at the moment or none any more."""
        if self._reader is None:
            _, _, image = next(self._video, (0, 0.0, None))
            self.ended = image is None
            return None if image is None else _bgr(image)
        frame = self._reader.take()
        self.ended = frame is None and self._reader.exhausted
        return None if frame is None else frame.bgr

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


class LoadStreams:
    """Cameras, streams and videos read together: yields (sources, im, im0, None, "").

    im: (n, 3, H, W) uint8 RGB, letterboxed. im0: a list of n images (H, W, 3) uint8 BGR, the newest of each source. A
    source that has ended keeps its last image; when all have, iterating ends.

    Args:
        sources: A camera number, an address, a video, or a .txt or .streams list of them.
        img_size: Side of the network's input in pixels, or (height, width).
        stride: Of the network.
        auto: Whether the smallest rectangle will do, if all sources have the same shape.
        transforms: Applied to each image in place of the letterbox (v7).
        vid_stride: Every n-th frame (v7).

    Attributes:
        sources: Their names, as they may stand in a file's name.
        mode: "stream".
        imgs: The newest images.
        fps: Of each source.
        rect: Whether all have one shape.

    Raises:
        DataError: If a source does not answer.
    """

    def __init__(
        self,
        sources: str | Path = "streams.txt",
        img_size: int | Sequence[int] = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms = None,
        vid_stride: int = 1,
    ):
        self.mode, self.img_size, self.stride = "stream", img_size, stride
        self.transforms = transforms
        addresses = _entries(str(sources))
        self.sources = [clean_str(address) for address in addresses]
        self._arrived = threading.Condition()
        self._feeds = [_Feed(address, vid_stride, self._arrived) for address in addresses]
        self.fps = [feed.fps for feed in self._feeds]
        self.frames = [feed.frames or float("inf") for feed in self._feeds]
        self.imgs = [self._first(feed, address) for feed, address in zip(self._feeds, addresses, strict=True)]
        self._fresh = True
        self.rect = len({image.shape for image in self.imgs}) == 1
        self.auto = auto and self.rect

    def _first(self, feed: _Feed, address: str) -> np.ndarray:
        waited = 0.0
        while (image := feed.take()) is None:
            if feed.ended or waited > _FIRST_FRAME_SECONDS:
                raise DataError(f"{cut(address)}: no frame arrives")
            with self._arrived:
                self._arrived.wait(timeout=0.05)
            waited += 0.05
        return image

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> "LoadStreams":
        self.count = -1
        return self

    def __next__(self) -> Any:
        item = self._next()
        return item[:OLDER] if takes_four(sys._getframe(1)) else item

    def _next(self) -> StreamItem:
        if not self._fresh and not self._update():
            self.close()
            raise StopIteration
        self._fresh = False
        self.count += 1
        im0 = [image.copy() for image in self.imgs]
        if self.transforms:
            return self.sources, np.stack([self.transforms(image) for image in im0]), im0, None, ""
        boxed = [letterbox(image, self.img_size, stride=self.stride, auto=self.auto)[0] for image in im0]
        return self.sources, np.stack([_planes(image) for image in boxed]), im0, None, ""

    def _update(self) -> bool:
        """Take what has arrived, waiting for one image at least; False if all sources have ended."""
        while True:
            is_new = False
            for index, feed in enumerate(self._feeds):
                image = feed.take()
                if image is not None:
                    self.imgs[index], is_new = image, True
            if is_new:
                return True
            if all(feed.ended for feed in self._feeds):
                return False
            with self._arrived:
                self._arrived.wait(timeout=0.05)

    def close(self) -> None:
        """End the reading threads."""
        for feed in self._feeds:
            feed.close()


class LoadWebcam:
    """One camera, mirrored: yields (name, im, im0, None, s) until it ends or q is pressed in a window.

    Args:
        pipe: Its number, or an address.
        img_size: Side of the network's input in pixels.
        stride: Of the network.

    Raises:
        DataError: If it does not answer.
    """

    def __init__(self, pipe: str | int = "0", img_size: int = 640, stride: int = 32):
        self.pipe, self.img_size, self.stride, self.mode = pipe, img_size, stride, "webcam"
        self.cap = open_capture(str(pipe))
        if not self.cap.isOpened():
            raise DataError(f"{cut(pipe)}: no camera or stream answers there")

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> "LoadWebcam":
        self.count = -1
        return self

    def __next__(self) -> Item:
        self.count += 1
        good, frame = self.cap.read()
        if not good:
            self.cap.release()
            raise StopIteration
        im0 = cv2.flip(frame, 1)
        im = _planes(letterbox(im0, self.img_size, stride=self.stride)[0])
        return "webcam.jpg", im, im0, None, f"webcam {self.count}: "


def exif_size(img: Any) -> tuple[int, int]:
    """Return (width, height) of an open Pillow image as its EXIF orientation shows it."""
    width, height = img.size
    return (height, width) if img.getexif().get(0x0112, 1) in (5, 6, 7, 8) else (width, height)


def exif_transpose(image: Any) -> Any:
    """Return a Pillow image rotated as its EXIF orientation says."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def img2label_paths(img_paths: Sequence[str]) -> list[str]:
    """Return the label file of each image: labels in place of the last images in its path, .txt for its suffix."""
    found = []
    for path in map(str, img_paths):
        before, separator, after = path.replace("\\", "/").rpartition("/images/")
        found.append(str(Path(f"{before}/labels/{after}" if separator else path).with_suffix(".txt")))
    return found
