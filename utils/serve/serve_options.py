"""The options of the local page, `python -m utils.serve`."""

from collections.abc import Mapping
from dataclasses import dataclass

from utils.config import old_flags
from utils.config.flags import Options, flag
from utils.files import ROOT


@dataclass(frozen=True)
class ServeConfig(Options):
    """The flags of the local page. Field names are the flags with underscores."""

    weights: tuple[str, ...] = flag(
        (str(ROOT / "yolov5s.pt"),), "checkpoints or exported files, each a model to choose on the page", many=True
    )
    host: str = flag(
        "127.0.0.1", "address to listen on; any other than this lets other machines of the network use the models"
    )
    port: int = flag(8000, "port to listen on; 0 takes a free one", "integer", low=0, high=65535)
    allow_host: tuple[str, ...] = flag(
        (), "further names of this machine that browsers may use, besides --host; may be repeated", repeatable=True
    )
    device: str = flag("", "cpu, mps, or numbers of CUDA devices such as 0; '' takes the best there is")
    half: bool = flag(False, "half precision (CUDA only)", "switch")
    dnn: bool = flag(False, "let OpenCV run .onnx files", "switch")
    download: bool = flag(
        False, "fetch published weights that are not on disk; nothing is fetched without it", "switch"
    )
    batch_size: int = flag(8, "most images of concurrent requests that run as one batch", "integer", low=1, high=256)
    batch_wait: float = flag(
        5.0, "milliseconds that an image waits for others to join its batch", "number", low=0, high=1000
    )
    max_upload: float = flag(64.0, "largest upload in megabytes", "number", low=0.01, high=10_000)
    max_pixels: float = flag(64.0, "largest image in megapixels", "number", low=0.01, high=1000)
    max_frames: int = flag(3000, "most frames of a clip; what follows is left out", "integer", low=1)
    max_waiting: int = flag(64, "most images that wait; further requests are told to come back", "integer", low=1)
    plugin: tuple[str, ...] = flag(
        (), "a Python file of your own to import first, such as one that registers a block; may be repeated",
        repeatable=True,
    )  # fmt: skip

    @classmethod
    def retired(cls) -> Mapping[str, str]:
        return old_flags.EVERYWHERE
