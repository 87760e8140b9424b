"""The zoo's commands when nobody reads their output, as in `python -m models.zoo list | head -1`."""

import os
import subprocess
import sys

from utils.files import ROOT


def test_a_closed_output_ends_a_command_in_one_line():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "models.zoo", "write", "--check"]
    try:
        ended = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "the reader of the output has closed it\n")
