"""Sources of images while training: their files, a block of shared memory, or decoded copies on disk.

All give the same pixels for validation: a stored image is what reading the file and bringing it to the training size
gives. The images of a small dataset are decoded once, by default, and are then those of its files in every sample.
Objects here can be pickled, so every way of starting workers can use them.
"""

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.datasets.bad_images import Retries, UnreadableImageError
from utils.datasets.letterboxing import fitted_size, resize
from utils.errors import ConfigError, DataError
from utils.files import STALE_AFTER, sweep_temporaries, write_atomically
from utils.free_memory import available_memory
from utils.images import read_image, reduction
from utils.log import LOGGER, progress

MEMORY_SHARE = 0.8  # of the free memory that a cache may take
SMALL_DATASET = 128 << 20  # bytes of decoded images that are kept unasked,
SMALL_SHARE = 1 / 16  # and no more than this share of the free memory
_STAMP = struct.Struct("<qq")  # after the array in a .npy copy: the original's time in ns and its size in bytes
_NPY_HEADER = 128  # bytes; what numpy writes before the samples of a three-dimensional array


class ImageFiles:
    """Images read from their files each time.

    Args:
        paths: The files.
        sizes: (n, 2) native (height, width) in pixels.
        imgsz: Training size, which a cache needs no more than.
    """

    def __init__(self, paths: Sequence[Path | str], sizes: np.ndarray, imgsz: int):
        self.paths, self.sizes, self.imgsz = paths, sizes, imgsz
        self.retries = Retries()

    def read(self, index: int, max_side: int) -> np.ndarray:
        """Return an image at its size or, for a large JPEG, at a half, quarter or eighth of it.

        Args:
            index: Which image.
            max_side: Pixels that the long side keeps at least.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            UnreadableImageError: If the file has changed, is damaged or gone, also when tried again.
        """
        return self.retries.read(index, lambda: self._read(index, max_side))

    def _read(self, index: int, max_side: int) -> np.ndarray:
        native = int(self.sizes[index, 0]), int(self.sizes[index, 1])
        image, _ = read_image(self.paths[index], max_side, native)
        shape = image.shape[:2]
        if shape != native and not any(shape == tuple(-(-side // factor) for side in native) for factor in (2, 4, 8)):
            raise DataError(
                f"{self.paths[index]}: is {shape[1]} x {shape[0]} pixels now, was {native[1]} x {native[0]} when "
                "its labels were read; start again to read the new file"
            )
        return image

    def first_attempt(self, index: int) -> np.ndarray | None:
        """Return an image at the size for training, or None if it cannot be read at once."""
        try:
            return self._read(index, self.imgsz)
        except DataError:
            return None

    def stored_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) that a cache keeps of an image: no larger than it is or than training needs."""
        native = int(self.sizes[index, 0]), int(self.sizes[index, 1])
        return fitted_size(native, self.imgsz) if max(native) > self.imgsz else native

    def stored(self, index: int) -> np.ndarray:
        """Return an image as a cache keeps it."""
        return resize(self.read(index, self.imgsz), self.stored_size(index), cv2.INTER_AREA)

    def reduction(self, index: int, max_side: int) -> int:
        """Return the factor by which an image, if it is a JPEG, is decoded smaller.

        Args:
            index: Which image.
            max_side: Pixels that the long side keeps at least.

        Returns:
            1, 2, 4 or 8.
        """
        return reduction(int(self.sizes[index].max()), max_side)

    def decoded_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image as it is decoded for the training size, if it is a JPEG."""
        factor = self.reduction(index, self.imgsz)
        return -(-int(self.sizes[index, 0]) // factor), -(-int(self.sizes[index, 1]) // factor)


class ImagesInMemory:
    """Images in one uint8 block that workers share; what does not fit into memory is read from its file.

    So is what cannot be read: it fails, and is replaced, when a sample needs it.
    """

    _title = "Caching images in memory ({})"

    def __init__(self, files: ImageFiles):
        self.files = files
        sizes = np.array([self.size(i) for i in range(len(files.paths))], dtype=np.int64).reshape(-1, 2)
        self.ends = np.cumsum(sizes.prod(1) * 3)
        self.count = self._fitting()
        self.block = _shared_bytes(int(self.ends[self.count - 1]) if self.count else 0)
        self.from_files: set[int] = set()
        _in_threads(self._fill, range(self.count), self._title.format(_gigabytes(len(self.block))))

    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image in the block."""
        return self.files.stored_size(index)

    def read(self, index: int, max_side: int) -> np.ndarray:
        """Return an image as it is stored, or from its file.

        Args:
            index: Which image.
            max_side: Pixels that the long side of a large JPEG keeps at least, if its file is read.

        Returns:
            (H, W, 3) uint8 RGB, not to be written to.
        """
        is_kept = index < self.count and index not in self.from_files
        return self._view(index) if is_kept else self.files.read(index, max_side)

    def _view(self, index: int) -> np.ndarray:
        """The view of the block that holds an image."""
        height, width = self.size(index)
        end = int(self.ends[index])
        return self.block.numpy()[end - height * width * 3 : end].reshape(height, width, 3)

    def _fill(self, index: int) -> None:
        try:
            self._view(index)[:] = self.files.stored(index)
        except UnreadableImageError:
            self.from_files.add(index)

    def _fitting(self) -> int:
        """How many images, from the first, fit into the free memory."""
        free = available_memory()
        count = len(self.ends)
        if free is None or not count or self.ends[-1] <= MEMORY_SHARE * free:
            return count
        fitting = int(np.searchsorted(self.ends, MEMORY_SHARE * free, side="right"))
        LOGGER.warning(
            f"WARNING: --cache ram needs {_gigabytes(self.ends[-1])} and {_gigabytes(free)} of memory are free: "
            f"{fitting} of {count} images are cached, the others read from disk each time; --cache disk keeps "
            "decoded copies"
        )
        return fitting


class ImagesDecodedOnce(ImagesInMemory):
    """The images of a small dataset as their files give them at the training size, in a block that workers share.

    Decoding is half of the work on a sample, and a small dataset's images are decoded four times per epoch. An image
    that a zoom asks for at another reduction, and one that is no JPEG and larger than training needs, is read from its
    file, so that a sample's pixels do not depend on what is kept.
    """

    _title = ""  # a moment's work

    def size(self, index: int) -> tuple[int, int]:
        return self.files.decoded_size(index)

    def read(self, index: int, max_side: int) -> np.ndarray:
        is_same = self.files.reduction(index, max_side) == self.files.reduction(index, self.files.imgsz)
        return super().read(index, max_side) if is_same else self.files.read(index, max_side)

    def _fill(self, index: int) -> None:
        image = self.files.first_attempt(index)
        if image is not None and image.shape[:2] == self.size(index):
            self._view(index)[:] = image
        else:
            self.from_files.add(index)

    @classmethod
    def is_worthwhile(cls, files: ImageFiles) -> bool:
        """Return whether the images are few enough to be kept unasked, and workers see the block without a copy."""
        if torch.multiprocessing.get_start_method() != "fork":  # the block would take shared memory, often scarce
            return False
        free = available_memory()
        limit = SMALL_DATASET if free is None else min(SMALL_DATASET, SMALL_SHARE * free)
        needed = 0
        for index in range(len(files.paths)):
            height, width = files.decoded_size(index)
            needed += height * width * 3
            if needed > limit:
                return False
        return True


class ImagesOnDisk:
    """Images as .npy copies in a folder beside theirs, <folder>_npy; renewed if an original has changed."""

    def __init__(self, files: ImageFiles):
        self.files = files
        folders = sorted({self._copy_of(index).parent for index in range(len(files.paths))})
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"--cache disk: {folder} cannot be made: {error.strerror}; use --cache ram or none"
                ) from None
        for folder in folders:
            sweep_temporaries(folder, older_than=STALE_AFTER)
        stale = [index for index, good in enumerate(_in_threads(self._current, range(len(files.paths)))) if not good]
        _in_threads(self._write, stale, "Caching images on disk")

    def read(self, index: int, max_side: int) -> np.ndarray:
        """Return an image from its copy, or from its file.

        Args:
            index: Which image.
            max_side: Pixels that the long side of a large JPEG keeps at least, if its file is read.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        height, width = self.files.stored_size(index)
        try:
            samples = np.fromfile(self._copy_of(index), np.uint8, count=height * width * 3, offset=_NPY_HEADER)
        except OSError:
            samples = np.empty(0, np.uint8)
        if samples.size != height * width * 3:  # removed meanwhile: the file itself is still there
            return self.files.read(index, max_side)
        return samples.reshape(height, width, 3)

    def _copy_of(self, index: int) -> Path:
        path = Path(self.files.paths[index])
        return path.parent.with_name(path.parent.name + "_npy") / f"{path.name}.npy"

    def _stamp(self, index: int) -> bytes:
        try:
            state = os.stat(self.files.paths[index])
        except OSError as error:
            raise DataError(f"{self.files.paths[index]}: cannot be read: {error.strerror}") from None
        return _STAMP.pack(state.st_mtime_ns, state.st_size)

    def _current(self, index: int) -> bool:
        """Whether there is a copy, of the right size, of the original as it is now."""
        height, width = self.files.stored_size(index)
        try:
            with open(self._copy_of(index), "rb") as stream:
                head = stream.read(_NPY_HEADER)
                stream.seek(height * width * 3, os.SEEK_CUR)
                return f"({height}, {width}, 3)".encode() in head and stream.read() == self._stamp(index)
        except OSError:
            return False

    def _write(self, index: int) -> None:
        try:
            image, stamp = np.ascontiguousarray(self.files.stored(index)), self._stamp(index)
        except DataError:  # without a copy it is read from its file, and fails when a sample needs it
            self._copy_of(index).unlink(missing_ok=True)
            return

        def write(stream) -> None:
            np.lib.format.write_array(stream, image, version=(1, 0), allow_pickle=False)
            stream.write(stamp)

        try:
            write_atomically(self._copy_of(index), write)
        except OSError as error:
            raise ConfigError(f"--cache disk: {self._copy_of(index)} cannot be written: {error.strerror}") from None


def open_images(
    paths: Sequence[Path | str], sizes: np.ndarray, imgsz: int, cache: str | None, again: bool = False
) -> ImageFiles | ImagesInMemory | ImagesOnDisk:
    """Return where to read images from.

    Args:
        paths: The files.
        sizes: (n, 2) native (height, width) in pixels.
        imgsz: Training size in pixels.
        cache: None, "ram" or "disk".
        again: Whether each image will be read many times, so that those of a small dataset are decoded once.

    Returns:
        An object with `read(index, max_side)`.

    Raises:
        ConfigError: For another word, and if the cache cannot be made.
    """
    files = ImageFiles(paths, sizes, imgsz)
    if not cache:
        return ImagesDecodedOnce(files) if again and ImagesDecodedOnce.is_worthwhile(files) else files
    if cache not in ("ram", "disk"):
        raise ConfigError(f"--cache {cache}: expected ram or disk")
    return ImagesInMemory(files) if cache == "ram" else ImagesOnDisk(files)


def _shared_bytes(count: int) -> torch.Tensor:
    """An uint8 block that worker processes see without a copy.

    Forked ones see ordinary memory; if workers are spawned the block has to be in shared memory from the start.
    """
    block = torch.empty(count, dtype=torch.uint8)
    if torch.multiprocessing.get_start_method() == "fork" or not count:
        return block
    try:
        return block.share_memory_()
    except RuntimeError as error:
        raise ConfigError(
            f"--cache ram: {_gigabytes(count)} of shared memory cannot be had ({str(error).splitlines()[0]}); "
            "use --cache disk"
        ) from None


def _in_threads(work: Callable[[int], object], indices: Sequence[int], description: str = "") -> list:
    """Return work(i) for every index, from a few threads, with a progress bar if there is a description."""
    if not len(indices):
        return []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(work, indices)
        return list(progress(results, len(indices), description) if description else results)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
