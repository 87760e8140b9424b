"""The options of train.py, val.py and detect.py: YOLOv5 v6.1's flags with their defaults, and a few more."""

from collections.abc import Mapping
from dataclasses import dataclass

from utils.calibration import AUTO
from utils.class_choice import ids_and_names
from utils.config import old_flags
from utils.config.flags import Options, flag
from utils.config.heatmap_options import CAM_METHODS, DEFAULT_METHOD
from utils.config.hyperparameters import OPTIMIZERS
from utils.config.image_size import both_sides
from utils.config.label_reading import LabelReading, labels_flag
from utils.config.option_records import Slicing, parse_image_limit
from utils.config.slice_flags import (
    overlap_flag,
    slice_flag,
    slice_match_flag,
    slice_merge_flag,
    slice_only_flag,
    slice_thres_flag,
)
from utils.errors import ConfigError
from utils.files import ROOT
from utils.language import ENGLISH, LANG_HELP, LANGUAGES

_SIZE_ALIASES = ("--img", "--img-size")
_DATA = str(ROOT / "data" / "shapes.yaml")
_PUBLISHED = str(ROOT / "yolov5s.pt")
_DOWNLOAD_HELP = "fetch published weights or a dataset that is not on disk; nothing is fetched without it"
_RECT_PAD_HELP = "validation: gray border around each image's smallest rectangle, in strides of the model"
_WEIGHTS_HELP = "checkpoint, or a file that export.py made of one; several make an ensemble"
_PLUGIN_HELP = "a Python file of your own to import first, such as one that registers a block; may be repeated"
_FONT_HELP = "font file for class names, if the fonts of this computer lack their script; also YOLO_FONT=FILE"
_COMPILE_HELP = "compile the network with torch.compile, which takes minutes; without a compiler it runs as it is"
_LOGGER_HELP = (
    "a logger class of your own, module:Class or file.py:Class, that gets the run's settings, figures and results; may "
    "be repeated"
)
_LOCAL = "nothing is sent to a cloud service here"


@dataclass(frozen=True)
class TrainConfig(Options):
    """The flags of train.py. Field names are the flags with underscores."""

    weights: str = flag("", "checkpoint to start from, such as yolov5s.pt; '' starts from random weights")
    cfg: str = flag(
        "", "model yaml, such as models/yolov5n_CBAM.yaml; '' takes the one inside --weights, else the default"
    )
    data: str = flag(_DATA, "dataset yaml")
    hyp: str = flag(str(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"), "hyperparameter yaml")
    hyp_unknown: str = flag(
        "refuse",
        "what a key of --hyp that is not known here does: refuse ends the run, ignore names it and goes on",
        choices=("refuse", "ignore"),
        new=True,
    )
    epochs: int = flag(300, "passes over the training images", "integer", low=1)
    batch_size: int = flag(16, "images per batch; -1 picks what fits into the memory of the device", "integer", low=-1)
    imgsz: int = flag(
        640,
        "side of the network input in pixels",
        "integer",
        low=32,
        aliases=_SIZE_ALIASES,
        surplus="one size serves training and validation, so give the first; val.py --imgsz validates at another",
    )
    rect: bool = flag(False, "train on rectangular batches, without mosaics", "switch")
    resume: str | bool = flag(False, "continue the newest run, or the last.pt named", const=True)
    nosave: bool = flag(False, "save the last checkpoint only", "switch")
    noval: bool = flag(False, "validate after the last epoch only", "switch")
    noautoanchor: bool = flag(False, "keep the anchors whatever the labels look like", "switch")
    evolve: int | None = flag(None, "search hyperparameters for this many generations", "integer", const=300, low=1)
    cache: str | None = flag(
        None, "keep decoded images in memory (ram) or beside the data (disk)", const="ram", choices=("ram", "disk")
    )
    image_weights: bool = flag(False, "draw images of classes with low AP more often", "switch")
    device: str = flag("", "cpu, mps or a CUDA device number such as 0; '' chooses")
    multi_scale: bool = flag(False, "vary the input size by half either way from batch to batch", "switch")
    single_cls: bool = flag(False, "treat all classes as one", "switch")
    optimizer: str = flag(
        "auto", "update rule; auto: the recipe's (--hyp), SGD if it names none", choices=("auto", *OPTIMIZERS)
    )
    sync_bn: bool = flag(False, "share batch norm statistics between processes (needs several processes)", "switch")
    workers: int = flag(8, "processes that load images; 0 loads in the main one", "integer", low=0)
    project: str = flag(str(ROOT / "runs" / "train"), "folder of the run folders")
    name: str = flag("exp", "name of the run folder; numbered if it exists")
    exist_ok: bool = flag(False, "write into an existing run folder", "switch")
    quad: bool = flag(False, "load batches of four images joined in a square", "switch")
    cos_lr: bool = flag(False, "let the learning rate fall along a half cosine instead of a line", "switch")
    label_smoothing: float = flag(0.0, "share of a class target given to the other classes", "number", low=0, high=1)
    patience: int = flag(100, "epochs without improvement before training stops; 0 never stops early", "integer", low=0)
    freeze: tuple[int | str, ...] = flag(
        (0,),
        "layers to freeze: one number N freezes the first N, several name "
        "them, backbone means all of it; inserted attention is not counted and never frozen",
        "integer",
        many=True,
        low=0,
        words=("backbone",),
    )
    save_period: int = flag(-1, "keep a checkpoint every so many epochs; -1 keeps none", "integer", low=-1)
    save_minutes: float = flag(
        10.0,
        "minutes after which last.pt is also written within an epoch, so that --resume goes on there; 0 writes it "
        "after epochs only",
        "number",
        low=0,
        new=True,
    )
    on_nan: str = flag(
        "stop",
        "what a loss or weights that are not finite do: stop ends the run, rollback goes back to the start of the "
        "epoch with half the learning rates, at most three times",
        choices=("stop", "rollback"),
        new=True,
    )
    local_rank: int = flag(
        -1,
        "set by older launchers of several processes; their variables are what is read",
        "integer",
        aliases=("--local_rank",),
    )
    seed: int = flag(0, "decides all random numbers", "integer", low=0, high=2**32 - 1, new=True)
    deterministic: bool = flag(
        False, "use algorithms that give the same bits each time, if there are any", "switch", new=True
    )
    amp: bool | None = flag(
        None, "mixed precision; default: on for CUDA from compute capability 7.0 on, off elsewhere", "choice", new=True
    )
    amp_type: str = flag(
        "auto",
        "type of mixed precision: fp16 with a gradient scaler, bf16 without (compute capability 8.0); auto is fp16",
        choices=("auto", "fp16", "bf16"),
        new=True,
    )
    download: bool = flag(False, _DOWNLOAD_HELP, "switch", new=True)
    rect_pad: float = flag(0.5, _RECT_PAD_HELP, "number", low=0, high=4, new=True)
    labels: str = labels_flag()
    no_cache_labels: bool = flag(False, "read all label files again and write no label cache", "switch", new=True)
    max_bad_images: str = flag(
        "1%",
        "images per split that may turn out to be unreadable in mid-run, a share or a number: each is replaced by "
        "another (in validation left out) and listed in bad_images.csv, more end the run",
        new=True,
    )
    plugin: tuple[str, ...] = flag((), _PLUGIN_HELP, repeatable=True, new=True)
    logger: tuple[str, ...] = flag((), _LOGGER_HELP, repeatable=True, new=True)
    font: str = flag("", _FONT_HELP, new=True)
    lang: str = flag(ENGLISH, LANG_HELP, choices=LANGUAGES, new=True)
    compile: bool = flag(False, _COMPILE_HELP, "switch", new=True)
    profile_steps: int = flag(
        0,
        "report where the time of this many batches goes, by part, and write a trace of more to profile.json; 0 is off",
        "integer",
        low=0,
        new=True,
    )
    attention_start: str = flag(
        "",
        "how inserted attention starts: identity behind a zero-initialized gate per channel, plain as published; "
        "'' does what the yaml says",
        choices=("", "identity", "plain"),
        new=True,
    )
    transfer: str = flag(
        "layers",
        "how --weights are transferred: layers aligned by type, shapes and order, or keys by name as in v6.1",
        choices=("layers", "keys"),
        new=True,
    )
    teacher: str = flag(
        "",
        "checkpoint of a larger network that teaches this one beside the labels; distill and distill_features in --hyp "
        "are the gains",
        new=True,
    )
    require_transfer: float = flag(
        0.0, "least share of --weights' parameters that must be transferred, 0 to 1", "number", low=0, high=1, new=True
    )

    @classmethod
    def refused(cls) -> dict[str, str]:
        board = f"{_LOCAL}; every run writes results.csv and TensorBoard events, and --logger loads a logger of yours"
        return {
            "--bucket": f"{_LOCAL}; copy the run folder yourself when training has ended",
            "--entity": board,
            "--upload_dataset": f"{_LOCAL}; copy the dataset's folder yourself",
            "--bbox_interval": f"{board}, and images of predicted boxes",
            "--artifact_alias": f"{_LOCAL}; --name and --project say where a run's weights are kept",
        }

    @classmethod
    def retired(cls) -> Mapping[str, str]:
        return {**old_flags.EVERYWHERE, **old_flags.TRAIN}

    def check(self) -> None:
        LabelReading.of(self.labels)
        parse_image_limit(self.max_bad_images)
        if "backbone" in self.freeze and len(self.freeze) > 1:
            raise ConfigError("--freeze: backbone is given alone, or numbers")
        if self.batch_size == 0:
            raise ConfigError("--batch-size 0: expected at least 1, or -1 to pick what fits into memory")
        if self.save_period == 0:
            raise ConfigError("--save-period 0: expected at least 1, or -1 to keep no extra checkpoints")
        if self.require_transfer and not self.weights:
            raise ConfigError(f"--require-transfer {self.require_transfer:g}: needs --weights to transfer from")
        if self.rect and self.image_weights:
            raise ConfigError("--image-weights: draws images at random and --rect fixes their order; leave one out")


@dataclass(frozen=True)
class ValConfig(Options):
    """The flags of val.py. Field names are the flags with underscores."""

    data: str = flag(_DATA, "dataset yaml")
    weights: tuple[str, ...] = flag((_PUBLISHED,), _WEIGHTS_HELP, many=True)
    batch_size: int = flag(32, "images per batch", "integer", low=1)
    imgsz: int = flag(
        640,
        "longer side of the network input in pixels",
        "integer",
        low=32,
        aliases=_SIZE_ALIASES,
        surplus="the shorter side of each image follows from its shape, so give the longer",
    )
    conf_thres: float = flag(0.001, "least confidence of a detection", "number", low=0, high=1)
    iou_thres: float = flag(0.6, "overlap above which NMS drops the weaker box", "number", low=0, high=1)
    task: str = flag(
        "val",
        "the split to validate on, also one of another name in --data; speed times, study repeats over sizes",
        choices=("train", "val", "test", "speed", "study"),
        open_choices=True,
    )
    device: str = flag("", "cpu, mps or a CUDA device number such as 0; '' chooses")
    workers: int = flag(8, "processes that load images; 0 loads in the main one", "integer", low=0)
    single_cls: bool = flag(False, "treat all classes as one", "switch")
    augment: bool = flag(False, "average over scales and a flip (test-time augmentation)", "switch")
    verbose: bool = flag(False, "print one row per class", "switch")
    save_txt: bool = flag(False, "write detections as label files", "switch")
    save_hybrid: bool = flag(False, "write labels and detections merged; implies --save-txt", "switch")
    save_conf: bool = flag(False, "append the confidence to each row of --save-txt", "switch")
    save_json: bool = flag(False, "write detections as COCO results; implied when --data ends with coco.yaml", "switch")
    project: str = flag(str(ROOT / "runs" / "val"), "folder of the run folders")
    name: str = flag("exp", "name of the run folder; numbered if it exists")
    exist_ok: bool = flag(False, "write into an existing run folder", "switch")
    half: bool = flag(
        False, "compute in half precision (checkpoints on CUDA; export.py --half makes such files)", "switch"
    )
    dnn: bool = flag(False, "run an .onnx file with OpenCV instead of ONNX Runtime", "switch")
    max_det: int = flag(300, "most detections per image", "integer", low=1, new=True)
    confusion_conf: float = flag(
        0.25,
        "confusion matrix, counts of errors: confidence from which a detection counts",
        "number",
        low=0,
        high=1,
        new=True,
    )
    confusion_iou: float = flag(
        0.45,
        "confusion matrix: overlap above which a detection and a label are a pair",
        "number",
        low=0,
        high=1,
        new=True,
    )
    download: bool = flag(False, _DOWNLOAD_HELP, "switch", new=True)
    rect_pad: float = flag(0.5, _RECT_PAD_HELP, "number", low=0, high=4, new=True)
    square: bool = flag(
        False,
        "pad every image to a square instead of its smallest rectangle, as exported files of one size need it",
        "switch",
        new=True,
    )
    labels: str = labels_flag()
    no_cache_labels: bool = flag(False, "read all label files again and write no label cache", "switch", new=True)
    plugin: tuple[str, ...] = flag((), _PLUGIN_HELP, repeatable=True, new=True)
    font: str = flag("", _FONT_HELP, new=True)
    lang: str = flag(ENGLISH, LANG_HELP, choices=LANGUAGES, new=True)
    compile: bool = flag(False, _COMPILE_HELP, "switch", new=True)
    slice: int = slice_flag()
    overlap: float = overlap_flag()
    slice_merge: str = slice_merge_flag()
    slice_match: str = slice_match_flag()
    slice_thres: float = slice_thres_flag()
    slice_only: bool = slice_only_flag()

    @classmethod
    def retired(cls) -> Mapping[str, str]:
        return {**old_flags.EVERYWHERE, **old_flags.VAL}

    def implied(self) -> dict[str, object]:
        save_txt, save_json = self.save_txt or self.save_hybrid, self.save_json or self.data.endswith("coco.yaml")
        rect_pad = 0.0 if self.task == "speed" and "rect_pad" not in self.given else self.rect_pad  # as v6.1
        return {"save_txt": save_txt, "save_json": save_json, "rect_pad": rect_pad}

    def check(self) -> None:
        LabelReading.of(self.labels)
        if Slicing.of(self) and self.save_hybrid:
            raise ConfigError("--save-hybrid: its labels join the candidates of whole images; leave --slice away")


@dataclass(frozen=True)
class DetectConfig(Options):
    """The flags of detect.py. Field names are the flags with underscores."""

    weights: tuple[str, ...] = flag((_PUBLISHED,), _WEIGHTS_HELP, many=True)
    source: str = flag(
        str(ROOT / "data" / "images"),
        "image, video, folder, glob, list of streams (.txt), stream URL or camera number such as 0",
    )
    data: str = flag(_DATA, "dataset yaml, for class names that the weights do not carry")
    imgsz: tuple[int, int] = flag(
        (640, 640),
        "network input in pixels: one side, or height and width",
        "integer",
        many=True,
        low=32,
        aliases=_SIZE_ALIASES,
    )
    conf_thres: float | str = flag(
        0.25,
        "least confidence of a detection; auto takes that of the best F1 on val, which best.pt of a training carries",
        "number",
        low=0,
        high=1,
        words=(AUTO,),
    )
    iou_thres: float = flag(0.45, "overlap above which NMS drops the weaker box", "number", low=0, high=1)
    max_det: int = flag(1000, "most detections per image", "integer", low=1)
    device: str = flag("", "cpu, mps or a CUDA device number such as 0; '' chooses")
    view_img: bool = flag(False, "show results in a window", "switch")
    save_txt: bool = flag(False, "write detections as label files", "switch")
    save_conf: bool = flag(False, "append the confidence to each row of --save-txt", "switch")
    save_crop: bool = flag(False, "write the image of each box to crops/<class>", "switch")
    nosave: bool = flag(False, "write no annotated images or videos", "switch")
    classes: tuple[int | str, ...] | None = flag(
        None, "keep these classes only, by id or by name; a number is an id", many=True
    )
    agnostic_nms: bool = flag(False, "let boxes of different classes suppress each other", "switch")
    augment: bool = flag(False, "average over scales and a flip (test-time augmentation)", "switch")
    visualize: bool = flag(False, "write images of the feature maps", "switch")
    heatmap: str = flag(
        "",
        "write a heat map of the most confident detection of each frame; heatmap.py has more",
        const=DEFAULT_METHOD,
        choices=("", *CAM_METHODS),
        new=True,
    )
    update: bool = flag(
        False, "afterwards write <name>_stripped.pt beside each checkpoint that carries training state", "switch"
    )
    project: str = flag(str(ROOT / "runs" / "detect"), "folder of the run folders")
    name: str = flag("exp", "name of the run folder; numbered if it exists")
    exist_ok: bool = flag(False, "write into an existing run folder", "switch")
    line_thickness: int | None = flag(
        None,
        "width of the drawn boxes in pixels; default: by the image's size and the number of boxes",
        "integer",
        low=1,
    )
    hide_labels: bool = flag(False, "draw boxes without text", "switch")
    hide_conf: bool = flag(False, "draw class names without confidences", "switch")
    half: bool = flag(
        False, "compute in half precision (checkpoints on CUDA; export.py --half makes such files)", "switch"
    )
    dnn: bool = flag(False, "run an .onnx file with OpenCV instead of ONNX Runtime", "switch")
    vid_stride: int = flag(1, "use every n-th frame of a video or stream", "integer", low=1, new=True)
    stream_buffer: bool = flag(
        False, "use every frame of a stream instead of the newest; a slow network then lags", "switch", new=True
    )
    stream_timeout: float = flag(
        60.0,
        "seconds without a frame after which a stream is given up; until then it is connected again; 0: never",
        "number",
        low=0,
        new=True,
    )
    batch_size: int = flag(
        1,
        "most images, or frames of one video or of several streams, that pass the network together",
        "integer",
        low=1,
        new=True,
    )
    save_csv: bool = flag(False, "write all detections to one csv", "switch", new=True)
    save_json: bool = flag(False, "write all detections to one json", "switch", new=True)
    save_counts: bool = flag(
        False,
        "write a csv of the number of detections per frame and class, and one of their totals",
        "switch",
        new=True,
    )
    save_frames: bool = flag(
        False,
        "write the frames of videos and streams as images without boxes, named like the label files of --save-txt",
        "switch",
        new=True,
    )
    download: bool = flag(False, _DOWNLOAD_HELP, "switch", new=True)
    plugin: tuple[str, ...] = flag((), _PLUGIN_HELP, repeatable=True, new=True)
    font: str = flag("", _FONT_HELP, new=True)
    lang: str = flag(ENGLISH, LANG_HELP, choices=LANGUAGES, new=True)
    compile: bool = flag(False, _COMPILE_HELP, "switch", new=True)
    profile_steps: int = flag(
        0,
        "report where the time of this many frames goes, by part, and write a trace of more to profile.json; 0 is off",
        "integer",
        low=0,
        new=True,
    )
    slice: int = slice_flag()
    overlap: float = overlap_flag()
    slice_merge: str = slice_merge_flag()
    slice_match: str = slice_match_flag()
    slice_thres: float = slice_thres_flag()
    slice_only: bool = slice_only_flag()

    @classmethod
    def retired(cls) -> Mapping[str, str]:
        return {**old_flags.EVERYWHERE, **old_flags.DETECT}

    def implied(self) -> dict[str, object]:
        return {"classes": ids_and_names(self.classes), "imgsz": both_sides(self.imgsz)}

    def check(self) -> None:
        if Slicing.of(self) and self.visualize:
            raise ConfigError("--visualize: shows the maps of one pass, and --slice makes many; leave one out")
        if self.compile and self.visualize:
            raise ConfigError(
                "--visualize: needs the network's layers one by one, and --compile joins them; leave one out"
            )
        if self.batch_size > 1 and (self.visualize or self.profile_steps):
            raise ConfigError(
                f"--batch-size {self.batch_size}: {'--visualize' if self.visualize else '--profile-steps'} looks at "
                "frames one by one; leave one out"
            )
        if self.heatmap and Slicing.of(self):
            raise ConfigError("--heatmap: shows the map of one pass, and --slice makes many; leave one out")
        if self.heatmap and (self.compile or self.half or self.augment):
            other = "compile" if self.compile else "half" if self.half else "augment"
            raise ConfigError(f"--heatmap: needs gradients of the plain pass in float32; leave --{other} away")
