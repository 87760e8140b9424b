"""Names of models, ports, packages, and the program's own start and end."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from utils.errors import ConfigError
from utils.files import ROOT
from utils.serve.served_models import model_names
from utils.serve.server import listening_socket


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/best.pt"], ["best.pt"]),
        (["a/best.pt", "b/last.pt"], ["best.pt", "last.pt"]),
        (["runs/a/best.pt", "runs/b/best.pt", "c.pt"], ["a/best.pt", "b/best.pt", "c.pt"]),
        (["a/best.pt", "a/best.pt"], ["a/best.pt", "a/best.pt (2)"]),
    ],
)
def test_models_have_the_shortest_names_that_tell_them_apart(paths, names):
    assert model_names(paths) == names


def test_a_port_that_is_taken_is_one_line():
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: Address already in use; choose another --port"):
            listening_socket("127.0.0.1", port)


def test_an_address_of_another_machine_is_one_line():
    with pytest.raises(ConfigError, match="--host 192.0.2.1"):
        listening_socket("192.0.2.1", 0)


def test_without_its_packages_the_page_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['fastapi'] = None; sys.argv = ['serve', '--weights', 'none.pt']\n"
        "import runpy; runpy.run_module('utils.serve', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip() == "error: fastapi: not installed; pip install -r requirements-serve.txt"


@pytest.mark.slow
def test_the_program_serves_until_ctrl_c(weights):
    command = [sys.executable, "-m", "utils.serve", "--weights", str(weights[0]), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if address := re.search(r"Page: (http://127\.0\.0\.1:\d+)", line):
                break
        models = json.load(urllib.request.urlopen(f"{address[1]}/v1/models"))
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 130 and "Traceback" not in rest
    assert models[0]["name"] == "one.pt" and os.path.exists(weights[0])
