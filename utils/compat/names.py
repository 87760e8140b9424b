"""Which names of YOLOv5's modules are here: those that packages hand out when asked, and what replaces the others."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from utils.errors import nearest

PAGE = "docs/migrating.md"


def _of(module: str, *names: str, **renamed: str) -> dict[str, str]:
    """Name -> "module:name" of names that have their own name there, and of those that have another."""
    return {name: f"utils.compat.{module}:{own}" for name, own in {**{n: n for n in names}, **renamed}.items()}


_LOADERS = (
    "HELP_URL",
    "IMG_FORMATS",
    "VID_FORMATS",
    "LoadImages",
    "LoadStreams",
    "LoadWebcam",
    "exif_size",
    "exif_transpose",
    "img2label_paths",
)
_AUGMENTING = ("augment_hsv", "cutout", "letterbox", "mixup", "random_perspective")
_BOXES = ("xywh2xyxy", "xywhn2xyxy", "xyn2xy", "xyxy2xywh", "xyxy2xywhn")
DATASETS = {
    **_of("image_loaders", *_LOADERS, img_formats="IMG_FORMATS", vid_formats="VID_FORMATS", help_url="HELP_URL"),
    **_of("training_data", "LoadImagesAndLabels", "create_dataloader"),
    **_of("augmenting", *_AUGMENTING),
    **_of("box_functions", *_BOXES, "segments2boxes"),
}
# Names that these modules and packages take from here when they are first asked for: name -> "module:name".
LAZY: dict[str, dict[str, str]] = {
    "utils.datasets": DATASETS,
    "utils.plots": {
        **_of(
            "drawing",
            *("Colors", "colors", "feature_visualization", "output_to_target", "plot_evolve", "plot_images"),
            *("plot_labels", "plot_one_box", "plot_results", "plot_val_study", "save_one_box"),
            Annotator="ScriptAnnotator",
            plot_study_txt="plot_val_study",
        ),
    },
    "utils.metrics": {
        **_of("measures", "ap_per_class", "compute_ap", "fitness", ConfusionMatrix="ScriptConfusionMatrix"),
        **_of("box_functions", "bbox_ioa", "bbox_iou", "box_iou", "wh_iou"),
    },
    "utils.loss": _of("losses", "BCEBlurWithLogitsLoss", "ComputeLoss", "FocalLoss", "QFocalLoss", "smooth_BCE"),
    "models.common": {
        **_of("auto_shape", "AutoShape", autoShape="AutoShape"),
        **_of("hub_detections", Detections="HubDetections"),
        **_of("multi_backend", "DetectMultiBackend"),
    },
    "models.yolo": _of("loading", DetectionModel="LoadedModel"),
}
_TRAIN = "train.py trains, and utils/engine/training.py is what it runs"
_NOT_DETECTION = "only boxes are detected here: no masks and no classification"
_NO_NETWORK = "nothing is asked or fetched over the network unless a flag asks for it"
# Names that YOLOv5's modules have and ours do not -> what takes their place.
MISSING = {
    **dict.fromkeys(("SegmentationModel", "ClassificationModel", "Segment", "Classify", "Proto"), _NOT_DETECTION),
    **dict.fromkeys(("process_mask", "process_mask_native", "scale_segments", "masks2segments"), _NOT_DETECTION),
    **dict.fromkeys(("imshow_cls", "ClassificationDataset", "create_classification_dataloader"), _NOT_DETECTION),
    **dict.fromkeys(("classify_transforms", "classify_albumentations"), _NOT_DETECTION),
    **dict.fromkeys(("smart_optimizer", "smart_resume", "smart_DDP"), _TRAIN),
    **dict.fromkeys(("check_online", "check_git_info", "git_describe", "safe_download", "download"), _NO_NETWORK),
    **dict.fromkeys(("gsutil_getsize", "url_getsize", "curl_download", "smart_hub_load"), _NO_NETWORK),
    "LoadScreenshots": "a script takes a screenshot with a package of its own, and gives the array to the network",
    "Albumentations": "augmentation is that of the hyperparameters; utils/datasets/augmentation.py",
    "load_mosaic": "mosaics are drawn by utils/datasets/scenes.py",
    "replicate": "there is no replication of small objects; copy_paste of the hyperparameters comes near",
    "copy_paste": "copy_paste of the hyperparameters; utils/datasets/pasting.py",
    "InfiniteDataLoader": "utils.datasets.loader.Loader keeps its workers",
    "dataset_stats": "python -m utils.datasets.check reports on a dataset",
    "HUBDatasetStats": "python -m utils.datasets.check reports on a dataset",
    "verify_image_label": "python -m utils.datasets.check reports on each file",
    "autosplit": "python -m utils.datasets.convert assigns splits",
    "extract_boxes": "detect.py --save-crop writes crops",
    "flatten_recursive": "folders are read recursively",
    "print_mutation": "train.py --evolve writes evolve.csv and hyp_evolve.yaml",
    "check_amp": "train.py --amp and --no-amp choose",
    "Timeout": "the signal module's alarm",
    "try_except": "a try statement",
    "threaded": "threading.Thread",
    "WorkingDirectory": "contextlib.chdir",
    "profile": "python -m utils.profile measures a network's layers",
    "prune": "torch.nn.utils.prune",
    "plot_lr_scheduler": "results.csv has the learning rates of every epoch",
    "plot_pr_curve": "utils.plots.curves.plot_threshold_curves",
    "plot_mc_curve": "utils.plots.curves.plot_threshold_curves",
    "plot_val_txt": "val.py draws its figures",
    "plot_targets_txt": "train.py draws labels.jpg",
    "profile_idetection": "python -m utils.profile measures a network's layers",
    "hist2d": "numpy.histogram2d",
    "butter_lowpass_filtfilt": "scipy.signal.filtfilt",
    "check_pil_font": "text is drawn with fonts of this machine; utils/plots/fonts.py",
    "user_config_dir": "nothing is written outside the folder of a run",
    "model_type": "utils.runtimes.opening tells formats apart",
}


def resolve(module: str, name: str) -> Any:
    """Return a name that a module or package of ours takes from here; it calls this in its `__getattr__`.

    Args:
        module: Its name.
        name: What is asked for.

    Returns:
        The function, class or value, which the module keeps from then on.

    Raises:
        ImportError: If there is none and an import statement asks; one line with the nearest, or what replaces it.
        AttributeError: If anything else asks.
    """
    target = LAZY.get(module, {}).get(name)
    if target is None and _is_submodule(module, name):  # not imported yet: the import system goes on and does that
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    if target is None:
        refuse(module, name, depth=3)
    home, _, own = target.partition(":")
    value = getattr(import_module(home), own)
    vars(sys.modules[module])[name] = value
    return value


def _is_submodule(module: str, name: str) -> bool:
    is_package = "__path__" in vars(sys.modules[module])
    return is_package and not name.startswith("_") and find_spec(f"{module}.{name}") is not None


def refuse(module: str, name: str, depth: int = 2) -> NoReturn:
    """Raise the error of a name that is not there.

    Args:
        module: The module that was asked.
        name: What it was asked for.
        depth: How many calls above this one it was asked.

    Raises:
        ImportError: If an import statement asks, which would drop the text of an AttributeError.
        AttributeError: If anything else asks.
    """
    if name.startswith("_"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    import dis

    text = f"{module} has no {name!r}{_remedy(module, name)}"
    frame = sys._getframe(depth)
    if frame.f_code.co_code[frame.f_lasti] == dis.opmap["IMPORT_FROM"]:
        raise ImportError(text, name=module)
    raise AttributeError(text)


def _remedy(module: str, name: str) -> str:
    if name in MISSING:
        return f": {MISSING[name]} ({PAGE})"
    own = [known for known in vars(sys.modules[module]) if not known.startswith("_")]
    return f"{nearest(name, {*own, *LAZY.get(module, {})})}; {PAGE} lists the names that are here"
