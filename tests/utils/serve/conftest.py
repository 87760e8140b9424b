"""The local page served from a thread, with two small networks."""

import http.client
import json
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest
from exported_files import saved, spread_model

from utils.config import from_options
from utils.serve.serve_options import ServeConfig


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Two checkpoints, of different first weights."""
    folder = tmp_path_factory.mktemp("served")
    return [saved(spread_model(seed=seed), folder / f"{name}.pt") for seed, name in enumerate(("one", "two"))]


class Client:
    """Requests to a page on this machine."""

    def __init__(self, port, server):
        self.port, self.server = port, server

    def __call__(self, verb, path, body=None, headers=None, **query):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(verb, f"{path}?{urlencode(query)}" if query else path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, verb, path, body=None, headers=None, **query):
        status, _, content = self(verb, path, body, headers, **query)
        return status, json.loads(content)


@contextmanager
def running(weights, **options):
    """A server with its own networks, on a free port."""
    pytest.importorskip("uvicorn", reason="the local page needs uvicorn: requirements-serve.txt")
    pytest.importorskip("fastapi", reason="the local page needs fastapi: requirements-serve.txt")
    from utils.serve.application import build_application
    from utils.serve.served_models import load_models
    from utils.serve.server import listening_socket, make_server

    config = from_options(ServeConfig, weights=[str(each) for each in weights], device="cpu", **options)
    application = build_application(load_models(config), config)
    server = make_server(application)
    with listening_socket("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        try:
            yield Client(listener.getsockname()[1], server)
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def client(weights):
    with running(weights, batch_wait=100.0, max_upload=2.0, max_pixels=0.5, max_frames=12) as client:
        yield client


def noise_image(seed=0, size=(96, 128)):
    """(H, W, 3) uint8 RGB of coarse noise, in which the small networks find many objects."""
    coarse = np.random.default_rng(seed).integers(0, 255, (size[0] // 8, size[1] // 8, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)


def png(image):
    """The bytes of a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
