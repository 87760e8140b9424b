"""The options of the dataset checker, `python -m utils.datasets.check`."""

from dataclasses import dataclass

from utils.config.compare_options import train_flag
from utils.config.flags import Options, flag
from utils.config.label_reading import LabelReading, labels_flag
from utils.datasets.check.findings import KINDS
from utils.errors import ConfigError, nearest
from utils.files import ROOT


@dataclass(frozen=True)
class CheckConfig(Options):
    """The flags of the dataset checker. Field names are the flags with underscores."""

    data: str = flag(str(ROOT / "data" / "shapes.yaml"), "dataset yaml; may also stand without the flag")
    cfg: str = flag(
        "", "model yaml whose anchors and strides the boxes are compared with; '' takes --weights', else yolov5n's"
    )
    weights: str = flag("", "checkpoint whose anchors and strides the boxes are compared with")
    imgsz: int = flag(
        640,
        "side of the network input in pixels at which boxes are measured",
        "integer",
        low=32,
        aliases=("--img", "--img-size"),
    )
    anchor_t: float = flag(
        4.0, "factor by which a side may differ from an anchor's, as in the hyperparameters", "number", low=1
    )
    min_box: float = flag(3.0, "pixels at --imgsz below which a box's side is tiny", "number", low=0)
    similar: float = flag(0.9, "least similarity of near-duplicate images", "number", low=0.5, high=1)
    turned: bool = flag(
        False, "also look for mirrored and rotated copies (the search takes eight times as long)", "switch"
    )
    no_duplicates: bool = flag(False, "do not look for duplicate images", "switch")
    labels: str = labels_flag()
    ignore: tuple[str, ...] = flag(
        (), "kinds of findings to leave out, such as picture-turned; may be repeated", repeatable=True
    )
    workers: int = flag(8, "threads that inspect images; 0 inspects in the main one", "integer", low=0)
    plugin: tuple[str, ...] = flag(
        (),
        "a Python file of your own to import first, such as one that registers a block; may be repeated",
        repeatable=True,
    )
    font: str = train_flag("font")
    lang: str = train_flag("lang")
    project: str = flag(str(ROOT / "runs" / "check"), "folder of the run folders")
    name: str = flag("exp", "name of the run folder; numbered if it exists")
    exist_ok: bool = flag(False, "write into an existing run folder", "switch")

    def check(self) -> None:
        LabelReading.of(self.labels)
        for kind in self.ignore:
            if kind not in KINDS:
                raise ConfigError(f"--ignore {kind}: no such kind of finding{nearest(kind, KINDS)}")
        if self.cfg and self.weights:
            raise ConfigError("--cfg and --weights: one of them gives the anchors; leave out the other")
