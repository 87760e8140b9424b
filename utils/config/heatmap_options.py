"""The options of heatmap.py: which network, image and target, by which method, at which layers, and what is checked."""

from collections.abc import Mapping
from dataclasses import dataclass

from utils.class_choice import ids_and_names
from utils.config import old_flags
from utils.config.flags import Options, flag
from utils.config.image_size import both_sides
from utils.errors import ConfigError
from utils.files import ROOT

CAM_METHODS = ("gradcam", "gradcam++", "layercam", "eigencam")
DEFAULT_METHOD = "layercam"  # one weight per position: it points at one detection (docs/heatmaps.md)
METHODS = (*CAM_METHODS, "attention")


@dataclass(frozen=True)
class HeatmapConfig(Options):
    """The flags of heatmap.py. Field names are the flags with underscores."""

    weights: tuple[str, ...] = flag(
        (str(ROOT / "yolov5s.pt"),), "checkpoint; several are shown side by side on one color scale", many=True
    )
    source: str = flag(str(ROOT / "data" / "images"), "image, video, folder, glob or list of images (.txt)")
    method: str = flag(
        DEFAULT_METHOD, "how a heat map is made; attention shows what the blocks applied", choices=METHODS
    )
    layer: tuple[str, ...] | None = flag(
        None,
        "layers whose maps are shown: indices, module paths such as 9.m, or names such as SPPF; "
        "default: the map that the target's head level reads",
        many=True,
    )
    target: str = flag(
        "box", "what is explained: box (one detection), class (all of its class), or the name of a class"
    )
    box: int = flag(1, "--target box, class: which detection, 1 being the most confident", "integer", low=1)
    query: tuple[int, ...] | None = flag(
        None, "attention: the pixel x y of the image whose weights are shown; default: their mean", "integer",
        many=True, low=0,
    )  # fmt: skip
    sanity: bool = flag(False, "randomize the weights layer by layer and compare the maps", "switch")
    deletion: bool = flag(False, "delete and insert pixels by the map and measure the target's score", "switch")
    steps: int = flag(32, "--deletion: parts that the pixels are deleted or inserted in", "integer", low=2)
    draws: int = flag(3, "--sanity: randomizations, --deletion: random maps", "integer", low=1)
    seed: int = flag(0, "decides all random numbers", "integer", low=0, high=2**32 - 1)
    save_npy: bool = flag(False, "write each map as float32 at the image's size and at the layer's", "switch")
    imgsz: tuple[int, int] = flag(
        (640, 640),
        "network input in pixels: one side, or height and width",
        "integer",
        many=True,
        low=32,
        aliases=("--img", "--img-size"),
    )
    conf_thres: float = flag(0.25, "least confidence of a detection", "number", low=0, high=1)
    iou_thres: float = flag(0.45, "overlap above which NMS drops the weaker box", "number", low=0, high=1)
    max_det: int = flag(1000, "most detections per image", "integer", low=1)
    classes: tuple[int | str, ...] | None = flag(
        None, "keep these classes only, by id or by name; a number is an id", many=True
    )
    agnostic_nms: bool = flag(False, "let boxes of different classes suppress each other", "switch")
    device: str = flag("", "cpu, mps or a CUDA device number such as 0; '' chooses")
    project: str = flag(str(ROOT / "runs" / "heatmap"), "folder of the run folders")
    name: str = flag("exp", "name of the run folder; numbered if it exists")
    exist_ok: bool = flag(False, "write into an existing run folder", "switch")
    vid_stride: int = flag(1, "use every n-th frame of a video", "integer", low=1)
    download: bool = flag(
        False, "fetch published weights that are not on disk; nothing is fetched without it", "switch"
    )
    plugin: tuple[str, ...] = flag(
        (), "a Python file of your own to import first, such as one that registers a block; may be repeated",
        repeatable=True,
    )  # fmt: skip
    font: str = flag("", "font file for class names, if the fonts of this computer lack their script")

    @classmethod
    def retired(cls) -> Mapping[str, str]:
        return {
            **old_flags.EVERYWHERE,
            "--layers": "is --layer here",
            "--model-path": "is --weights here",
            "--img-path": "is --source here",
            "--target-layer": "is --layer here",
        }

    def implied(self) -> dict[str, object]:
        return {"classes": ids_and_names(self.classes), "imgsz": both_sides(self.imgsz)}

    def check(self) -> None:
        if self.query and len(self.query) != 2:
            raise ConfigError(f"--query {' '.join(map(str, self.query))}: expected x and y in pixels of the image")
        if self.method == "attention" and (self.sanity or self.deletion):
            name = "sanity" if self.sanity else "deletion"
            raise ConfigError(f"--{name}: checks maps of {', '.join(CAM_METHODS)}; attention shows what was applied")
        if self.query and self.method != "attention":
            raise ConfigError(f"--query: belongs to --method attention, got --method {self.method}")
