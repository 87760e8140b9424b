"""Downloads from a real server on this machine, in each way that a network, a server or an address can fail."""

import hashlib
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from utils import download
from utils.config import DatasetSpec
from utils.datasets.prepare import ensure
from utils.download import fetch, public_address
from utils.errors import ConfigError, DataError, UserError

BODY = bytes(range(256)) * 1000
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 3868129\n"


@contextmanager
def server(*parts: bytes, delay: float = 0.0) -> Iterator[str]:
    """Serve one literal answer, in parts that are sent `delay` seconds apart, and yield the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(0.3)
                try:
                    connection.recv(65536)
                    for part in parts:
                        connection.sendall(part)
                        if delay and stop.wait(delay):
                            break
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(65536)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file.bin"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
    assert not thread.is_alive()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body


def failure(address: str, path: Path, **options) -> str:
    """Return the error of a download, which must be one short line with the address and leave nothing behind."""
    before = set(path.parent.iterdir()) if path.parent.is_dir() else set()
    with pytest.raises(UserError) as caught:
        fetch(address, path, **{"minimum": 1, **options})
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) < 900, message
    assert not path.parent.is_dir() or set(path.parent.iterdir()) == before
    return message


@pytest.mark.parametrize(
    "sent",
    [
        answer(BODY, f"Content-Length: {len(BODY)}"),
        answer(BODY),
        answer(BODY, "Content-Length: many"),
        answer(b"3e800\r\n" + BODY + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    ],
)
def test_a_file_arrives_whole(sent, tmp_path):
    with server(sent) as address:
        path = fetch(address, tmp_path / "new" / "file", sha256=hashlib.sha256(BODY).hexdigest())
    assert path.read_bytes() == BODY and [file.name for file in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "sent, words",
    [
        (answer(BODY, f"Content-Length: {len(BODY) + 1}"), f"{len(BODY)} bytes came, expected {len(BODY) + 1}"),
        (answer(b"3e801\r\n" + BODY, "Transfer-Encoding: chunked"), "the connection ended too early"),
        (answer(b"3e800\r\n" + BODY + b"\r\n", "Transfer-Encoding: chunked"), "the connection ended too early"),
        (answer(b"no number\r\n" + BODY, "Transfer-Encoding: chunked"), "the connection ended too early"),
        (b"", "not HTTP"),
        (b"hello\r\n\r\n", "not HTTP (BadStatusLine"),
        (b"HTTP/1.1 many OK\r\n\r\n", "not HTTP (BadStatusLine"),
        (answer(b"", "X: " + "x" * 70_000), "not HTTP (LineTooLong"),
        (answer(b"", *(f"X{index}: x" for index in range(200))), "not HTTP (HTTPException"),
        (answer(b"", status="404 Not \x1b[2J Found"), "the server answered 404 Not \\x1b[2J Found"),
        (answer(b"", "Location: file:///etc/passwd", status="302 Found"), "the server answered 302"),
        (answer(b"", "Location: /file.bin", status="302 Found"), "the server answered 302"),
        (answer(b"", "Location: http://[x/", status="302 Found"), "it is no valid address"),
        (answer(b"", f"Content-Length: {10**17}"), "has 100000000.0 GB, "),
        (
            answer(POINTER, f"Content-Length: {len(POINTER)}"),
            "gives a git-lfs pointer, which stands for a file of 3868129",
        ),
    ],
)
def test_every_failure_of_a_server_is_one_line_with_the_address(sent, words, tmp_path):
    with server(sent) as address:
        message = failure(address, tmp_path / "file")
    assert message.startswith(address) and words in message, message


@pytest.mark.parametrize(
    "address, words",
    [
        ("no address", "it is no valid address"),
        ("http://[1/x", "it is no valid address"),
        ("http://127.0.0.1:port/x", "it is no valid address"),
        ("http://" + "a" * 300 + "/x", ""),
        ("gopher://host/x", "unknown url type"),
        ("http:///x", "no host given"),
        ("http://127.0.0.1:9/a b\u00e9.jpg", "Connection refused"),
        ("http://127.0.0.1:9/" + "x" * 5000, "Connection refused"),
        ("http://a\x00b/x", ""),
    ],
)
def test_every_bad_address_is_one_line(address, words, tmp_path):
    assert words in failure(address, tmp_path / "file")


@pytest.mark.parametrize("address", ["http://me:pa/ss@127.0.0.1:9/x", "http://me:pass@127.0.0.1:9/x"])
def test_no_message_holds_a_password(address, tmp_path):
    message = failure(address, tmp_path / "file")
    assert "pa" not in message.replace(str(tmp_path), "").replace("passwords", "") and "127.0.0.1:9/x" in message


@pytest.mark.parametrize("dripped", ["headers", "body", "chunks"])
def test_a_server_that_drips_is_given_up(dripped, tmp_path, monkeypatch):
    """Each wait is far shorter than the timeout of a socket, so only a limit on the whole ends it."""
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(download, "UNKNOWN_SECONDS", 0.5)
    first = {
        "headers": b"HTTP/1.1 200 OK\r\nX: ",
        "body": answer(b""),
        "chunks": answer(b"", "Transfer-Encoding: chunked"),
    }
    rest = b"1\r\nx\r\n" if dripped == "chunks" else b"x"
    begun = time.monotonic()
    with server(first[dripped], *[rest] * 1000, delay=0.05) as address:
        message = failure(address, tmp_path / "file")
    assert "it took more than 0 s" in message and time.monotonic() - begun < 10


def test_a_large_file_has_the_time_that_its_size_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(download, "SLOWEST_RATE", len(BODY) / 20)  # 20 s, and it takes one
    parts = [BODY[at : at + len(BODY) // 10] for at in range(0, len(BODY), len(BODY) // 10)]
    with server(answer(b"", f"Content-Length: {len(BODY)}"), *parts, delay=0.1) as address:
        assert fetch(address, tmp_path / "file").read_bytes() == BODY


def test_no_announced_size_has_more_than_the_longest_time(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LONGEST_SECONDS", 0.5)
    with server(answer(b"", f"Content-Length: {10**9}"), *[b"x"] * 1000, delay=0.05) as address:
        assert "it took more than 0 s" in failure(address, tmp_path / "file")


def test_another_sha256_is_named_and_nothing_is_kept(tmp_path):
    right, wrong = hashlib.sha256(BODY).hexdigest(), "0" * 64
    with server(answer(BODY)) as address:
        assert f"its sha256 is {right}, expected {wrong}" in failure(address, tmp_path / "file", sha256=wrong)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with server(answer(BODY)) as address:
        assert "cannot be fetched: " in failure(address, tmp_path / "file" / "below")


@pytest.mark.parametrize(
    "address, public",
    [
        ("rtsp://user:secret@host:554/live", "rtsp://host:554/live"),
        ("rtsp://user:pa/ss@host:554/live", "rtsp://host:554/live"),
        ("rtsp://user:p?a#s/s@host/live", "rtsp://host/live"),
        ("rtsp://user:p@ss/w@host/live", "rtsp://host/live"),
        ("rtsp://us/er:pass@host/live", "rtsp://host/live"),
        ("rtsp://john.doe:12/34@host/live", "rtsp://host/live"),
        ("http://a/b.jpg: no; rtsp://u:p/w@host/y", "http://a/b.jpg: no; rtsp://host/y"),
        ("http://host/image@2x.png", "http://host/image@2x.png"),
        ("http://[::1]/image@2x.png", "http://[::1]/image@2x.png"),
        ("folder/me@host.png", "folder/me@host.png"),
        ("http://host:8080/a/b.png", "http://host:8080/a/b.png"),
    ],
)
def test_passwords_are_left_out_of_addresses(address, public):
    assert public_address(address) == public


# ---- archives of datasets ----


def archive(folder: Path, damage: bytes = b"") -> bytes:
    """Return a zip of a small dataset; `damage` is written over the middle of its second member."""
    file = folder / "source.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in ("images/train/a.jpg", "images/train/b.jpg"):
            opened.writestr(name, bytes(index * index % 251 for index in range(3000)))
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage:
        at = content.index(b"images/train/b.jpg") + 60
        content[at : at + len(damage)] = damage
    return bytes(content)


def dataset(folder: Path, address: str, **keys) -> DatasetSpec:
    content = {"path": str(folder / "data"), "train": "images/train", "names": ["a"], "download": address, **keys}
    return DatasetSpec.load(content)


def test_a_dataset_is_checked_by_its_sha256(tmp_path):
    content = archive(tmp_path)
    with server(answer(content)) as address:
        address = address.replace("file.bin", "file.zip")
        with pytest.raises(UserError, match="file.zip: not a zip archive that was asked for: its sha256 is"):
            ensure(dataset(tmp_path, address, sha256="0" * 64), ["train"], download=True)
        assert list(tmp_path.iterdir()) == []
        spec = dataset(tmp_path, address, sha256=hashlib.sha256(content).hexdigest().upper())
        ensure(spec, ["train"], download=True)
    assert sorted(file.name for file in spec.train[0].iterdir()) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("damage", [b"\xff" * 40, b"\x07" * 4, b"\x00" * 30])
def test_a_damaged_member_is_named_with_the_address(damage, tmp_path):
    with server(answer(archive(tmp_path, damage))) as address:
        address = address.replace("file.bin", "file.zip")
        with pytest.raises(DataError) as caught:
            ensure(dataset(tmp_path, address), ["train"], download=True)
    message = str(caught.value)
    assert message.startswith(f"{address}: is not a readable zip archive: ") and "\n" not in message
    assert message.endswith("the first that cannot be unpacked is 'images/train/b.jpg'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "images/train/a.jpg/b.jpg"])
def test_a_member_that_cannot_be_written_is_named(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as opened:
        opened.writestr("images/train/a.jpg", b"1")
        opened.writestr(name, b"2")
    content = (tmp_path / "s.zip").read_bytes()
    named = pytest.raises(DataError, match="the first that cannot be unpacked is")
    with server(answer(content)) as address, named as caught:
        ensure(dataset(tmp_path, address.replace("file.bin", "file.zip")), ["train"], download=True)
    assert address.replace("file.bin", "file.zip") in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("value, words", [("abc", "64 hexadecimal digits, got 'abc'"), ("g" * 64, "64 hexadecimal")])
def test_a_sha256_that_is_none_is_refused(value, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        dataset(tmp_path, "http://host/a.zip", sha256=value)
    with pytest.raises(ConfigError, match="which is not given"):
        DatasetSpec.load({"names": ["a"], "sha256": "0" * 64})


def test_a_sha256_of_digits_alone_is_no_number(tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text(f"names: [a]\ndownload: http://host/a.zip\nsha256: {'1' * 64}\n")
    assert DatasetSpec.load(path).sha256 == "1" * 64
