"""ncnn: folders *_ncnn_model with model.ncnn.param and model.ncnn.bin, as pnnx writes them."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import CheckpointError, cut
from utils.files import is_file
from utils.runtimes.foreign import declared_shape, folder_texts, read_metadata
from utils.runtimes.packages import required
from utils.runtimes.protocol import DEFAULT_THRESHOLDS, Runtime, Thresholds, in_one_line

INPUT_BLOB, OUTPUT_BLOB = "in0", "out0"  # pnnx's names
FILES = ("model.ncnn.param", "model.ncnn.bin")


class NcnnRuntime(Runtime):
    """A folder of ncnn, on the CPU, in float32, with as many threads as torch has; one image at a time.

    Args:
        path: The folder.
        device: Not read.

    Raises:
        CheckpointError: If a file of the folder is missing, or cannot be read.
        ConfigError: If ncnn is not installed.
    """

    def __init__(self, path: Path, device: torch.device):
        self._ncnn = ncnn = required("ncnn", "ncnn", path)
        self.path, self.place = path, "CPU"
        self.title = f"ncnn {ncnn.__version__}"
        missing = [name for name in FILES if not is_file(path / name)]
        if missing:
            raise CheckpointError(
                f"{cut(path)}: holds no {' and no '.join(missing)}; expected them, as export.py writes"
            )
        self.metadata = read_metadata(folder_texts(path), path)
        self.shape = replace(declared_shape(self.metadata), batch=1)
        self.net: Any = ncnn.Net()
        options = self.net.opt
        options.use_vulkan_compute = False
        options.num_threads = torch.get_num_threads()
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        with in_one_line(path, self.title), _silent():
            failed = self.net.load_param(str(path / FILES[0])) or self.net.load_model(str(path / FILES[1]))
            blobs = [] if failed else [*self.net.input_names(), *self.net.output_names()]
        if INPUT_BLOB not in blobs or OUTPUT_BLOB not in blobs:
            raise CheckpointError(f"{cut(path)}: {self.title} cannot open it: damaged, or not written by pnnx")

    def run(self, images: np.ndarray, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> np.ndarray:
        return np.stack([self._run_one(image) for image in images])

    def _run_one(self, image: np.ndarray) -> np.ndarray:
        with in_one_line(self.path, self.title, f"does not run on an image {image.shape}"):
            extractor = self.net.create_extractor()
            failed = extractor.input(INPUT_BLOB, self._ncnn.Mat(np.ascontiguousarray(image)))
            code, output = (failed, None) if failed else extractor.extract(OUTPUT_BLOB)
            if code or output is None:
                raise RuntimeError(f"error {code}")
            return np.array(output)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep ncnn from writing to stderr why it fails: its native code knows no other place."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
