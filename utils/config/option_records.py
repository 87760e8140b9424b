"""Options that travel together: how a split is read, batched, evaluated, and how frames are predicted.

The scripts' configurations hold flags; what the packages below them take are these records.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from utils.errors import ConfigError
from utils.world import World

SLICE_MERGES = ("nms", "wbf")  # the first is the default
LEAST_TILE = 32  # pixels
SLICE_MATCHES = ("border", "iou", "ios")


class SplitFlags(Protocol):
    """The flags that train.py, val.py and compare.py share about reading a split."""

    @property
    def imgsz(self) -> int: ...

    @property
    def rect_pad(self) -> float: ...

    @property
    def single_cls(self) -> bool: ...

    @property
    def labels(self) -> str: ...

    @property
    def no_cache_labels(self) -> bool: ...

    @property
    def download(self) -> bool: ...


@dataclass(frozen=True)
class SplitOptions:
    """How one split of a dataset is read and shaped.

    Attributes:
        imgsz: Side in pixels of the square network input; with `rect` the longer side of each image.
        stride: Largest stride of the model in pixels; rectangular shapes are multiples of it.
        rect: Give each image its own smallest rectangle instead of a square.
        pad: Strides of gray border added around rectangles; 0.5 is what YOLOv5 validates with.
        square: Evaluate every image in a square of `imgsz`, whatever `rect` and `pad` say.
        augment: Draw training samples (mosaic, random views, color jitter) instead of letterboxed images.
        single_cls: Count every object as class 0.
        labels: What becomes of a bad label row: "skip" drops it, "clip" cuts boxes that leave the image and drops the
            rest, "strict" ends the run.
        cache_labels: Keep the checked labels in an .npz beside the labels, and use one that still fits.
        cache: Keep decoded images: "ram", "disk" or None.
        seed: Decides, with epoch and index, every augmented sample.
        download: Fetch a dataset that is not on disk, if its yaml says how.
        max_bad_images: Share of the images such as "1%", or number of them, that may turn out to be unreadable in
            mid-run; "" for none: the first ends the run.
        closed_from: The first epoch whose training samples show one image each, see `without_mixing`; None for none.
    """

    imgsz: int = 640
    stride: int = 32
    rect: bool = False
    pad: float = 0.0
    square: bool = False
    augment: bool = False
    single_cls: bool = False
    labels: str = "skip"
    cache_labels: bool = True
    cache: str | None = None
    seed: int = 0
    download: bool = False
    max_bad_images: str = ""
    closed_from: int | None = None

    @classmethod
    def of(cls, flags: SplitFlags) -> "SplitOptions":
        """Return what a script's configuration says about reading any of its splits."""
        return cls(
            imgsz=flags.imgsz,
            pad=flags.rect_pad,
            square=getattr(flags, "square", False),
            single_cls=flags.single_cls,
            labels=flags.labels,
            cache_labels=not flags.no_cache_labels,
            download=flags.download,
        )


@dataclass(frozen=True)
class LoaderOptions:
    """How samples become batches.

    Attributes:
        batch_size: Images per batch, at least 1.
        workers: Most worker processes to use; 0 loads in this process.
        shuffle: A training order; a last batch of one image joins the one before it.
        seed: Decides, with the epoch, the order.
        quad: Join four inputs to one of twice the size.
        pin_memory: Put batches in page-locked memory, for asynchronous transfer to CUDA.
        drop_last: Leave out a last batch that is not full.
        world: The processes that take a part of each batch of a training order; `batch_size` is theirs together.
    """

    batch_size: int = 16
    workers: int = 0
    shuffle: bool = False
    seed: int = 0
    quad: bool = False
    pin_memory: bool = False
    drop_last: bool = False
    world: World = World()

    def __post_init__(self):
        if self.batch_size < 1:
            raise ConfigError(f"--batch-size {self.batch_size}: expected at least 1")


class SliceFlags(Protocol):
    """The flags about tiles that val.py, detect.py and compare.py share."""

    @property
    def slice(self) -> int: ...

    @property
    def overlap(self) -> float: ...

    @property
    def slice_merge(self) -> str: ...

    @property
    def slice_match(self) -> str: ...

    @property
    def slice_thres(self) -> float: ...

    @property
    def slice_only(self) -> bool: ...


@dataclass(frozen=True)
class Slicing:
    """How images that are larger than a tile are also predicted tile by tile (docs/slicing.md).

    Attributes:
        size: Side of a tile in pixels of the image.
        overlap: Least share of a tile's side that neighbors have in common, 0 to 0.9.
        merge: What becomes of boxes of one object: "nms" keeps one, "wbf" averages them.
        match: When boxes are of one object: their "iou" or "ios" (intersection over the smaller) exceeds `threshold`;
            or "border", which is "iou" and, for boxes that end at a tile's border, "ios" with those that do not.
        threshold: 0..1.
        only: Leave out the prediction of the whole image.
    """

    size: int
    overlap: float = 0.2
    merge: str = SLICE_MERGES[0]
    match: str = SLICE_MATCHES[0]
    threshold: float = 0.5
    only: bool = False

    @classmethod
    def of(cls, flags: SliceFlags) -> "Slicing | None":
        """Return what a script's flags ask for, None without --slice.

        Raises ConfigError for a flag that says something about tiles if there are none.
        """
        if 0 < flags.slice < LEAST_TILE:
            raise ConfigError(f"--slice {flags.slice}: expected at least {LEAST_TILE} pixels, or 0 for none")
        if flags.slice:
            return cls(
                flags.slice, flags.overlap, flags.slice_merge, flags.slice_match, flags.slice_thres, flags.slice_only
            )
        given = (
            ("--overlap", flags.overlap != cls.overlap),
            ("--slice-merge", flags.slice_merge != cls.merge),
            ("--slice-match", flags.slice_match != cls.match),
            ("--slice-thres", flags.slice_thres != cls.threshold),
            ("--slice-only", flags.slice_only),
        )
        name = next((name for name, is_given in given if is_given), None)
        if name is not None:
            raise ConfigError(f"{name}: says how tiles are predicted, and there are none; give --slice 640 too")
        return None


@dataclass(frozen=True)
class EvalOptions:
    """How a network is evaluated.

    Attributes:
        conf_thres: Least confidence of a detection, 0..1.
        iou_thres: IoU above which NMS drops the weaker box, 0..1.
        max_det: Most detections per image.
        augment: Test-time augmentation: three views, no loss.
        half: Mixed precision (CUDA only).
        single_cls: Count detections of every class as class 0.
        hybrid: Let the labels join the candidates as certain detections, for autolabeling.
        coco: Also compute COCO's figures.
        verbose: Log one table row per class.
        compile: Run the network compiled, one graph for all sizes.
        dnn: Let OpenCV run .onnx files.
        slicing: Also predict tiles of each image; None does not.
    """

    conf_thres: float = 0.001
    iou_thres: float = 0.6
    max_det: int = 300
    augment: bool = False
    half: bool = False
    single_cls: bool = False
    hybrid: bool = False
    coco: bool = False
    verbose: bool = False
    compile: bool = False
    dnn: bool = False
    slicing: Slicing | None = None


@dataclass(frozen=True)
class PredictOptions:
    """How frames are predicted.

    Attributes:
        imgsz: One side in pixels, or (height, width), that an image is letterboxed into with the smallest border that
            the stride allows. None is 640 or, of an exported file that takes one size only, that size.
        conf_thres: Least confidence of a detection, 0..1.
        iou_thres: IoU above which NMS drops the weaker box, 0..1.
        max_det: Most detections per image.
        classes: Ids or names of the classes to keep; None keeps all.
        agnostic: Let boxes of different classes suppress each other.
        augment: Test-time augmentation.
        multi_label: Let a box count for every class above `conf_thres`, not only for its best.
        slicing: Also predict tiles of each frame; None does not.
        batch_size: Most images that pass the network together, at least 1.
        read_ahead: Let a thread read and letterbox frames of files before the network needs them.
    """

    imgsz: int | Sequence[int] | None = None
    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 1000
    classes: Sequence[int | str] | None = None
    agnostic: bool = False
    augment: bool = False
    multi_label: bool = False
    slicing: Slicing | None = None
    batch_size: int = 1
    read_ahead: bool = False


def parse_image_limit(text: str) -> tuple[float, bool]:
    """Return the number in `--max-bad-images` and whether it is a share: "1%" is (0.01, True), "5" (5.0, False).

    Raises ConfigError for anything else.
    """
    text = text.strip()
    try:
        value, is_share = float(text.removesuffix("%")), text.endswith("%")
    except ValueError:
        value, is_share = -1.0, False
    if not 0 <= value < float("inf") or (value > 100 if is_share else not value.is_integer()):
        raise ConfigError(f"--max-bad-images {text}: expected a share such as 1%, or a number of images such as 5")
    return (value / 100, True) if is_share else (value, False)
