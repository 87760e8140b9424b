"""Download of a published file: done only if the user asked for it with --download."""

import hashlib
import http.client
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit

from utils.errors import UserError, cut
from utils.files import pointer_problem, write_atomically
from utils.log import LOGGER, progress

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a response
ANSWER_SECONDS = 120.0  # until the server's headers are there, however it drips them
UNKNOWN_SECONDS = 3600.0  # for a file of unknown size
LONGEST_SECONDS = 24 * 3600.0  # for any file
SLOWEST_RATE = 20_000  # bytes/s that a file of announced size gets time for, beyond ANSWER_SECONDS
# What the network layer raises; a bad address is a ValueError, a disk's error an OSError as most of the network's are.
FETCH_ERRORS = (OSError, http.client.HTTPException, ValueError, EOFError)


def fetch(
    address: str,
    path: Path | str,
    kind: str = "a file",
    minimum: int = 100_000,
    sha256: str | None = None,
    quiet: bool = False,
    remedy: str = "",
) -> Path:
    """Download a file with a progress bar, and return its path; it appears whole or not at all.

    Args:
        address: The URL.
        path: Where to write it; missing folders are created.
        kind: What the file should be, for the error.
        minimum: Fewest bytes of such a file; less is taken for an error page.
        sha256: The SHA-256 that its bytes must have, in lower case; None does not check.
        quiet: Whether to show neither a message nor a bar.
        remedy: What to do if it cannot be fetched; by default, put it at `path`.

    Returns:
        `path` as a Path.

    Raises:
        UserError: The address is none, the network, the server or the disk failed, it took longer than
            ANSWER_SECONDS and the time that the size allows, fewer bytes arrived than announced or than `minimum`, or
            they have another SHA-256. In one line that names the address, without a password.
    """
    path, shown_address = Path(path), cut(public_address(address))
    if not quiet:
        LOGGER.info(f"Downloading {shown_address} to {path}")
    with _Deadline(ANSWER_SECONDS) as deadline:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _open(_quoted(address), deadline) as response:
                arrival = _Arrival(response, deadline, path.parent, quiet)
                return write_atomically(path, lambda stream: arrival.copy(stream, kind, minimum, sha256))
        except UserError as error:
            raise UserError(f"{shown_address}: {error}") from None
        except FETCH_ERRORS as error:
            reason = f"it took more than {deadline.seconds:.0f} s" if deadline.passed else _reason(error)
            remedy = remedy or f"fetch it elsewhere and put it at {cut(path)}"
            raise UserError(f"{shown_address}: cannot be fetched: {reason}; {remedy}") from None


def public_address(address: str) -> str:
    """Return text with the user names and passwords of the addresses in it left out, for messages and file names.

    A password may hold any character, also a slash, that an address should have escaped. Where it cannot be told from
    a port and a path that holds @, more is left out than needed.
    """
    scheme, *rests = re.split(r"(?<=://)", address)
    return scheme + "".join(_without_user(rest) for rest in rests)


def _without_user(rest: str) -> str:
    """Return what follows the :// of an address without its user name and password."""
    user, at, host = rest.rpartition("@")
    if not at:
        return rest
    authority, *path = re.split(r"[/?#]", user, maxsplit=1)
    has_colon = ":" in re.sub(r"^\[[^\]]*\]$", "", authority)
    is_in_path = path and not has_colon and not re.search(r"[^/]:[^/@]*$", path[0])  # as in host/image@2x.png
    return rest if is_in_path else host


class _Arrival:
    """The body of a response: copied, counted and checked."""

    def __init__(self, response: Any, deadline: "_Deadline", folder: Path, quiet: bool):
        length = response.headers.get("Content-Length") or ""
        self.announced = int(length) if re.fullmatch(r"\d{1,18}", length) else 0
        self.response, self.deadline, self.quiet = response, deadline, quiet
        free = shutil.disk_usage(folder).free
        if self.announced > free:
            raise UserError(f"has {self.announced / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {cut(folder)}")
        allowed = ANSWER_SECONDS + self.announced / SLOWEST_RATE if self.announced else UNKNOWN_SECONDS
        deadline.extend(min(allowed, LONGEST_SECONDS))

    def copy(self, stream: BinaryIO, kind: str, minimum: int, sha256: str | None) -> None:
        """Copy the body into a stream and check that it is complete."""
        received, digest, start = 0, hashlib.sha256(), b""
        blocks = _blocks(self.response)
        total = -(-self.announced // CHUNK) or None
        for block in blocks if self.quiet else progress(blocks, total=total, description="MB"):
            stream.write(block)
            digest.update(block)
            start = start or block[:1024]
            received += len(block)
        if self.deadline.passed:
            raise TimeoutError  # the end of the body is that of the connection
        problem = pointer_problem(start)
        if problem:
            raise UserError(f"gives {problem}")
        if received < max(minimum, self.announced):
            raise UserError(f"not {kind}: {received} bytes came, expected {max(minimum, self.announced)}")
        if sha256 and digest.hexdigest() != sha256:
            raise UserError(f"not {kind} that was asked for: its sha256 is {digest.hexdigest()}, expected {sha256}")


def _blocks(response: Any) -> Iterator[bytes]:
    """Yield the body in blocks of CHUNK bytes; each read returns what is there, so that the time can be looked at."""
    block = bytearray()
    while part := response.read1(CHUNK):
        block += part
        if len(block) >= CHUNK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _reason(error: BaseException) -> str:
    """Return in words why an address cannot be fetched; never with a part of the address, which may be a password."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {cut(error.reason, 100)}"
    cause = getattr(error, "reason", None)
    if isinstance(cause, BaseException):
        return _reason(cause)
    if isinstance(error, http.client.InvalidURL | UnicodeError) or (
        isinstance(error, ValueError) and not isinstance(error, OSError)
    ):
        return "it is no valid address"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended too early"
    if isinstance(error, http.client.HTTPException):
        return f"the server's answer is not HTTP ({type(error).__name__} {cut(error, 60)})"
    return cut(cause or getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _quoted(address: str) -> str:
    """Return an address with spaces and letters beyond ASCII in its path escaped. Raises ValueError if it is none."""
    parts = urlsplit(address.strip())
    if parts.username is not None:
        raise UserError("user names and passwords in an address are not sent; fetch it elsewhere and put it there")
    safe = "%/:=&?~#+!$,;'@()*[]"
    return urlunsplit(parts._replace(path=quote(parts.path, safe), query=quote(parts.query, safe)))


# ---- time ----


class _Deadline:
    """A limit on the time of a download, from first name to last byte; a context manager.

    A timeout of a socket limits each wait only, and a server that sends a byte now and then is never waited for long.
    So when the time is over, the connections are ended from outside, whatever they are in: headers, TLS, body.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.passed = False
        self._begun = time.monotonic()
        self._sockets: list[socket.socket] = []
        self._timer = self._started(seconds)

    def __enter__(self) -> "_Deadline":
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for each in self._sockets:
            each.close()

    def extend(self, seconds: float) -> None:
        """Set the limit anew, counted from the start."""
        self._timer.cancel()
        self.seconds = seconds
        self._timer = self._started(max(0.0, self._begun + seconds - time.monotonic()))

    def watch(self, connected: socket.socket) -> None:
        """End this connection too when the time is over."""
        self._sockets.append(connected.dup())  # TLS takes the socket itself away

    def _started(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        return timer

    def _end(self) -> None:
        self.passed = True
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended by itself
                continue


class _WatchedConnection(http.client.HTTPConnection):
    """A connection that a deadline can end."""

    deadline: _Deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)


class _WatchedTlsConnection(http.client.HTTPSConnection, _WatchedConnection):
    """The same, watched from before the handshake: HTTPSConnection connects by the class that follows it here."""


class _WatchedHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http and https addresses by connections that a deadline can end."""

    def __init__(self, deadline: _Deadline):
        super().__init__()
        self.deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect(_WatchedConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect(_WatchedTlsConnection), req)

    def _connect(self, connection_class: type[_WatchedConnection]) -> Any:
        def connect(host: str, **options: Any) -> _WatchedConnection:
            connection = connection_class(host, **options)
            connection.deadline = self.deadline
            return connection

        return connect


def _open(address: str, deadline: _Deadline) -> Any:
    """Return the response to a request of an address."""
    return urllib.request.build_opener(_WatchedHandler(deadline)).open(address, timeout=TIMEOUT)
