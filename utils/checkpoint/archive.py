"""The zip archive of a checkpoint: names and sizes are checked first, and tensors are read without spare copies.

torch.save writes a zip whose entries are uncompressed, in one folder: `data.pkl`, a pickle that describes the content,
and `data/<key>`, the elements of each storage. A tensor of the description is a `StoredTensor` until `Archive.tensor`
reads its elements: straight into the tensor's memory, converted chunk by chunk if that is asked for. So reading a file
takes its size in memory, or twice that if half precision becomes float32; reading only the description takes far less.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import torch
from torch import Tensor

from utils.errors import CheckpointError, cut
from utils.files import pointer_problem

PICKLE_LIMIT = 16 * 1024**2  # bytes; those of official models have less than one megabyte
_DIRECTORY_LIMIT = 16 * 1024**2  # bytes of the zip's central directory, which takes ten times as much in memory
_READ_ALLOWANCE = 1024**2  # bytes of tensors allowed beyond twice the file's size
_CHUNK = 1024**2  # bytes read at a time
_END_RECORD, _END_RECORD_64 = b"PK\x05\x06", b"PK\x06\x06"  # signatures of the end of central directory
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # of torch.save before version 1.6
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class Storage:
    """A storage in a file: the elements that one or more tensors are views of.

    Attributes:
        key: Name of its entry in the folder `data`.
        dtype: Type of its elements.
        count: Number of its elements.
    """

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file: a view that lies inside a storage.

    Attributes:
        storage: Where its elements are.
        offset: Index of its first element in the storage.
        shape: Its sides.
        stride: Distance in the storage, in elements, between neighbors along each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements in the file."""
        return self.storage.dtype

    def numel(self) -> int:
        """Return its number of elements."""
        count = 1
        for side in self.shape:
            count *= side
        return count

    def nbytes(self) -> int:
        """Return its size in bytes, of the type in the file."""
        return self.numel() * self.dtype.itemsize


class Archive:
    """A zip file of torch.save whose entries have been checked; a context manager that closes the file.

    Args:
        path: The file.

    Attributes:
        size: Bytes of the file.
        pickle: Its description, the content of data.pkl.

    Raises:
        CheckpointError: If the file is no such zip, is damaged, or claims other sizes than it has; in one line.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.size = 0
        self._zip = _open_zip(self.path)
        self._storages: dict[tuple[Storage, torch.dtype], Tensor] = {}
        self._conversion_buffer: Tensor | None = None
        try:
            self.size = self.path.stat().st_size
            self._budget = 2 * self.size + _READ_ALLOWANCE
            self._folder = _checked_folder(self.path, self._zip)
            self.pickle = self._read_entry("data.pkl")
            order = f"{self._folder}/byteorder"
            if order in self._zip.namelist() and self._read_entry("byteorder") != b"little":
                raise CheckpointError(f"{self.path}: written on a big-endian machine; save it again on another")
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_):
        self._storages.clear()
        self._zip.close()

    def check(self, storage: Storage) -> Storage:
        """Return the storage itself; raise CheckpointError unless its entry has as many bytes as it claims."""
        try:
            actual = self._zip.getinfo(f"{self._folder}/data/{storage.key}").file_size
        except KeyError:
            raise CheckpointError(f"{self.path}: damaged: it has no entry data/{printable(storage.key)}") from None
        claimed = storage.count * storage.dtype.itemsize
        if actual != claimed:
            raise CheckpointError(
                f"{self.path}: damaged: data/{printable(storage.key)} has {actual} bytes, "
                f"expected {printable(str(claimed))}"
            )
        return storage

    def tensor(self, stored: StoredTensor, full: bool = False, keep: bool = True) -> Tensor:
        """Read a tensor from the file.

        Args:
            stored: The tensor, of this file.
            full: Whether a floating-point tensor becomes float32.
            keep: Whether the storage is kept until the archive is closed, so that tensors that share it in the file
                share it in memory. Without, it is read anew each time, for a caller that frees each tensor before the
                next.

        Returns:
            The tensor, on the CPU.

        Raises:
            CheckpointError: If the file is damaged, or all tensors read from it would take more than twice its size.
        """
        dtype = torch.float32 if full and stored.dtype.is_floating_point else stored.dtype
        elements = self._storages.get((stored.storage, dtype))
        if elements is None:
            self._charge_budget(stored.storage.count * dtype.itemsize)
            elements = self._read_storage(stored.storage, dtype)
            if keep:
                self._storages[stored.storage, dtype] = elements
        view = elements.as_strided(stored.shape, stored.stride, stored.offset)
        if stored.numel() == stored.storage.count:
            return view
        self._charge_budget(stored.numel() * dtype.itemsize)
        return view.clone()  # so that a part does not hold the whole

    def _charge_budget(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise CheckpointError(f"{self.path}: refused: its tensors take more memory than those of a checkpoint")

    def _read_storage(self, storage: Storage, dtype: torch.dtype) -> Tensor:
        """Return a storage as a flat tensor of type `dtype`, read and converted chunk by chunk."""
        elements = torch.empty(storage.count, dtype=dtype)
        step = _CHUNK // storage.dtype.itemsize
        with self._open_entry(f"data/{storage.key}") as stream:
            for start in range(0, storage.count, step):
                part = elements[start : start + step]
                chunk = part if dtype == storage.dtype else self._chunk_of(storage.dtype)[: len(part)]
                self._read_into(stream, chunk)
                if chunk is not part:
                    part.copy_(chunk)
        return elements

    def _chunk_of(self, dtype: torch.dtype) -> Tensor:
        """Return a buffer to convert from: one for all tensors, since freed aligned blocks are seldom used again."""
        if self._conversion_buffer is None:
            self._conversion_buffer = torch.empty(_CHUNK, dtype=torch.uint8)
        return self._conversion_buffer.view(dtype)

    @staticmethod
    def _read_into(stream: zipfile.ZipExtFile, chunk: Tensor) -> None:
        raw = chunk.view(torch.uint8)
        if stream.readinto(raw.numpy().data) != raw.numel():
            raise EOFError("it ends too early")
        if chunk.dtype == torch.bool:
            raw.clamp_(max=1)  # torch relies on 0 and 1

    def _read_entry(self, name: str) -> bytes:
        with self._open_entry(name) as stream:
            return stream.read()

    @contextmanager
    def _open_entry(self, name: str) -> Iterator[zipfile.ZipExtFile]:
        """Yield an open entry; errors while it is read become a CheckpointError of one line, as damage."""
        try:
            with self._zip.open(f"{self._folder}/{name}") as stream:
                yield cast("zipfile.ZipExtFile", stream)
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.path}: damaged: {printable(name)}: {printable(str(error))}") from None


def printable(text: str, limit: int = 100) -> str:
    """Return text of a file as it is safe to print: ASCII and one line.

    Args:
        text: The text; a value of another type is checked to be a plain one before it becomes text, because nested
            containers may unfold without end.
        limit: Largest number of characters; what is longer ends in dots.

    Returns:
        The text, with control characters and those beyond ASCII escaped.
    """
    safe = _UNPRINTABLE.sub(lambda character: ascii(character[0])[1:-1], text[:limit])
    return safe if len(safe) <= limit and len(text) <= limit else f"{safe[: limit - 3]}..."


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Return the open zip file, or raise a CheckpointError that names what the file is instead."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(200)
            directory = _directory_size(stream)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if pointer_problem(start):
        raise CheckpointError(f"{cut(path)}: {pointer_problem(start)}")
    if start.startswith(_LEGACY_MAGIC):
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
    """Return the size of a zip's central directory in bytes, as its end record claims; 0 without an end record."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 2**17))
    tail = stream.read()
    at, at_64 = tail.rfind(_END_RECORD), tail.rfind(_END_RECORD_64)
    small = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    return int.from_bytes(tail[at_64 + 40 : at_64 + 48], "little") if small == 0xFFFFFFFF and at_64 >= 0 else small


def _checked_folder(path: Path, archive: zipfile.ZipFile) -> str:
    """Check the names and sizes of all entries, and return the one folder that they are in.

    Torch does not compress entries; what claims more bytes than the file has is a zip bomb or damage.
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
            raise CheckpointError(f"{path}: refused: an entry is named {printable(entry.filename)}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise CheckpointError(
                f"{path}: refused: {printable(entry.filename)} is compressed or encrypted, as torch never writes"
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
