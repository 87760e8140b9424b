"""A camera on this machine: MJPEG over HTTP as IP cameras send it, with scripted stalls, breaks and returns."""

import http.server
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
from small_videos import numbered_frame

Step = tuple[str, float]


@lru_cache(maxsize=64)
def jpeg_of(number: int, size: tuple[int, int]) -> bytes:
    return cv2.imencode(".jpg", numbered_frame(number, size)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


class MjpegCamera:
    """Serves http://127.0.0.1:port/; frames are `numbered_frame`s of 1, 2, ..., 63, 0, 1, ... over all connections.

    Args:
        *script: What each connection does; the last one's is repeated. Steps are ("frames", count), ("stall", seconds),
            ("half", 0): half a frame, and ("refuse", 0): an error. After its steps a connection is closed.
        fps: Frames per second; 0 sends as fast as they are taken.
        size: (height, width) of the frames in pixels.
    """

    def __init__(self, *script: Sequence[Step], fps: float = 100.0, size: tuple[int, int] = (96, 160)):
        self.script, self.interval, self.size = script, 1 / fps if fps else 0.0, size
        self.connections = self.sent = 0
        self.cut_off = threading.Event()  # ends every connection at its next frame
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # whoever listens hangs up when it likes
        self.address = f"http://127.0.0.1:{self._server.server_port}/video"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "MjpegCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.cut_off.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        steps = self.script[min(self.connections, len(self.script) - 1)]
        self.connections += 1
        handler.close_connection = True
        if steps and steps[0][0] == "refuse":
            handler.send_error(503)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        for kind, amount in steps:
            self._step(handler.wfile.write, kind, amount)
        handler.connection.shutdown(socket.SHUT_RDWR)

    def _step(self, write: Callable[[bytes], object], kind: str, amount: float) -> None:
        if kind == "stall":
            self.cut_off.wait(amount)
            return
        begun = time.monotonic()
        for number in range(int(amount) if kind == "frames" else 1):
            if self.cut_off.is_set():
                return
            jpeg = jpeg_of((self.sent + 1) % 64, self.size)
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
            write(part if kind == "frames" else part[: len(part) // 2])
            self.sent += kind == "frames"
            time.sleep(max(begun + (number + 1) * self.interval - time.monotonic(), 0))
