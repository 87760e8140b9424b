"""The zip around a checkpoint: checked before anything in it is believed, and read without a copy to spare.

torch.save writes a zip whose entries are stored as they are, in one folder: `data.pkl`, a pickle that describes the
content, and `data/<key>`, the numbers of each storage. A tensor of the description is a `StoredTensor` until `Archive.tensor`
reads its numbers: straight into their place, converted on the way where that is asked for. So reading a file costs its
size once, twice where half precision becomes float32, and looking into it costs nothing like it.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch
from torch import Tensor

from utils.errors import CheckpointError

PICKLE_LIMIT = 16 * 1024**2  # bytes; the pickles of official models have under one megabyte
_DIRECTORY_LIMIT = 16 * 1024**2  # bytes of the zip's list of entries, which becomes ten times as much in memory
_ALLOWANCE = 1024**2  # bytes that may be read beyond twice the file's size
_CHUNK = 1024**2  # bytes read at a time
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"  # how a zip's last records begin
_LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # torch's own mark before version 1.6
_CONTROL = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class Storage:
    """A row of numbers in a file: its entry's key, their type and their number."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file: a view of a storage, known to lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def numel(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count

    def nbytes(self) -> int:
        return self.numel() * self.dtype.itemsize


class Archive:
    """A torch zip file whose entries have been checked: `pickle` is its description, `tensor` reads numbers.

    Raises CheckpointError, in one line, for a file that is no such zip, is damaged, or lies about its sizes.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.size = 0
        self._zip = _open_zip(self.path)
        self._read_before: dict[tuple[str, torch.dtype], Tensor] = {}
        self._chunk: Tensor | None = None
        try:
            self.size = self.path.stat().st_size
            self._budget = 2 * self.size + _ALLOWANCE
            self._folder = _checked_folder(self.path, self._zip)
            self.pickle = self._entry("data.pkl")
            order = f"{self._folder}/byteorder"
            if order in self._zip.namelist() and self._entry("byteorder") != b"little":
                raise CheckpointError(f"{self.path}: written on a big-endian machine; save it again on another")
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_):
        self._read_before.clear()
        self._zip.close()

    def check(self, storage: Storage) -> Storage:
        """Return a storage as it is, or raise CheckpointError where its entry has not the bytes that it claims."""
        try:
            there = self._zip.getinfo(f"{self._folder}/data/{storage.key}").file_size
        except KeyError:
            raise CheckpointError(f"{self.path}: damaged: it has no entry data/{shown(storage.key)}") from None
        claimed = storage.count * storage.dtype.itemsize
        if there != claimed:
            raise CheckpointError(
                f"{self.path}: damaged: data/{shown(storage.key)} has {there} bytes, expected {shown(str(claimed))}"
            )
        return storage

    def tensor(self, stored: StoredTensor, full: bool = False, keep: bool = True) -> Tensor:
        """Return a tensor's numbers; `full` makes floating-point ones float32. Tensors that share a storage in the file
        share it in memory; keep=False reads anew each time, for a caller that lets go of each tensor before the next.

        Raises CheckpointError where all that was read would come to more than twice the file's size.
        """
        dtype = torch.float32 if full and stored.dtype.is_floating_point else stored.dtype
        numbers = self._read_before.get((stored.storage.key, dtype))
        if numbers is None:
            self._spend(stored.storage.count * dtype.itemsize)
            numbers = self._numbers(stored.storage, dtype)
            if keep:
                self._read_before[stored.storage.key, dtype] = numbers
        view = numbers.as_strided(stored.shape, stored.stride, stored.offset)
        if stored.numel() == stored.storage.count:
            return view
        self._spend(stored.numel() * dtype.itemsize)
        return view.clone()  # so that a part does not hold the whole

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise CheckpointError(f"{self.path}: refused: it makes more tensors of its numbers than a checkpoint has")

    def _numbers(self, storage: Storage, dtype: torch.dtype) -> Tensor:
        """Return a storage as a flat tensor of type `dtype`, read and converted a chunk at a time."""
        numbers = torch.empty(storage.count, dtype=dtype)
        step = _CHUNK // storage.dtype.itemsize
        with self._reading(f"data/{storage.key}") as stream:
            for start in range(0, storage.count, step):
                part = numbers[start : start + step]
                chunk = part if dtype == storage.dtype else self._buffer(storage.dtype)[: len(part)]
                self._fill(stream, chunk)
                if chunk is not part:
                    part.copy_(chunk)
        return numbers

    def _buffer(self, dtype: torch.dtype) -> Tensor:
        """Return a chunk to convert from: one for all tensors, as aligned blocks that are freed are seldom used again."""
        if self._chunk is None:
            self._chunk = torch.empty(_CHUNK, dtype=torch.uint8)
        return self._chunk.view(dtype)

    @staticmethod
    def _fill(stream: BinaryIO, chunk: Tensor) -> None:
        raw = chunk.view(torch.uint8)
        if stream.readinto(raw.numpy().data) != raw.numel():
            raise EOFError("it ends too early")
        if chunk.dtype == torch.bool:
            raw.clamp_(max=1)  # what torch takes for granted

    def _entry(self, name: str) -> bytes:
        with self._reading(name) as stream:
            return stream.read()

    @contextmanager
    def _reading(self, name: str) -> Iterator[BinaryIO]:
        """Open an entry; what goes wrong while it is read is damage, told in one line."""
        try:
            with self._zip.open(f"{self._folder}/{name}") as stream:
                yield stream
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.path}: damaged: {shown(name)}: {shown(str(error))}") from None


def shown(text: str) -> str:
    """Return text from a file in a form that is safe to print: ASCII, one line, not long."""
    safe = _CONTROL.sub(lambda character: ascii(character[0])[1:-1], text[:100])
    return safe if len(safe) <= 100 and len(text) <= 100 else f"{safe[:97]}..."


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Return the open zip file, or raise CheckpointError that says what the file is instead."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(_LEGACY_START))
            directory = _directory_size(stream)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if start == _LEGACY_START:
        raise CheckpointError(f"{path}: in the format of torch before 1.6; open it there and save it again")
    if directory > _DIRECTORY_LIMIT:
        raise CheckpointError(
            f"{path}: refused: its list of entries has {directory} bytes, more than a checkpoint needs"
        )
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError):
        kind = "truncated or damaged" if start.startswith(b"PK") else "not a checkpoint"
        raise CheckpointError(f"{path}: {kind}; a .pt file is a zip that torch.save wrote") from None


def _directory_size(stream: BinaryIO) -> int:
    """Return the bytes of a zip's list of entries as its last record gives them; 0 where there is no such record."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 2**17))
    tail = stream.read()
    at, at_64 = tail.rfind(_END), tail.rfind(_END_64)
    small = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    return int.from_bytes(tail[at_64 + 40 : at_64 + 48], "little") if small == 0xFFFFFFFF and at_64 >= 0 else small


def _checked_folder(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the one folder all entries lie in, having checked names and sizes.

    Torch stores entries as they are; what claims more bytes than the file has is a bomb or damage.
    """
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path}: a TorchScript file; give the checkpoint it was exported from")
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if (
            len(parts) < 2
            or entry.filename.startswith("/")
            or ".." in parts
            or "\\" in entry.filename
            or ":" in parts[0]
        ):
            raise CheckpointError(f"{path}: refused: an entry is named {shown(entry.filename)}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise CheckpointError(
                f"{path}: refused: {shown(entry.filename)} is compressed or encrypted, as torch never writes"
            )
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path}: refused: two entries have the same name")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path}: refused: its entries claim more bytes than the file has")
    folders = {PurePosixPath(name).parts[0] for name in names}
    if len(folders) != 1:
        raise CheckpointError(f"{path}: not a checkpoint: a zip with {len(folders)} folders at its top, expected one")
    folder = folders.pop()
    if f"{folder}/data.pkl" not in names:
        raise CheckpointError(f"{path}: not a checkpoint: it has no data.pkl")
    if archive.getinfo(f"{folder}/data.pkl").file_size > PICKLE_LIMIT:
        raise CheckpointError(f"{path}: refused: its description is larger than {PICKLE_LIMIT >> 20} MiB")
    return folder
