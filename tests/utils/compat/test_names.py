"""The names that scripts import: they are there, and those that are not say in one line what replaces them."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from utils.compat.names import LAZY, MISSING

ROOT = Path(__file__).resolve().parents[3]
LIGHT = ["utils.compat", "utils.compat.names"]  # a package asks whether a submodule's name is one of these
PAGE = ROOT / "docs" / "migrating.md"
CHINESE_PAGE = ROOT / "docs" / "migrating.zh-CN.md"
CHINESE = yaml.safe_load((ROOT / "docs" / "migrating.zh-CN.yaml").read_text(encoding="utf-8"))
# Names that are this project's modules' own, beside those that they take from utils.compat.
OWN = {
    "models.common": {"autopad", "Conv", "C3", "SPPF", "Focus", "Concat", "Bottleneck", "BottleneckCSP", "SPP", "C3TR"}
    | {"C3SPP", "C3Ghost", "DWConv", "GhostConv", "GhostBottleneck", "Contract", "Expand", "TransformerBlock"},
    "models.yolo": {"Model", "Detect", "parse_model"},
    "utils.metrics": set(),
}
# What scripts of v5 to v7 import, by module.
IMPORTED = {
    "models.experimental": "attempt_load Ensemble CrossConv MixConv2d Sum",
    "models.common": "DetectMultiBackend AutoShape Detections autoShape Conv C3 SPPF Focus Concat Bottleneck DWConv "
    "GhostConv C3TR autopad CBAM",
    "models.yolo": "Model Detect parse_model DetectionModel",
    "utils.general": "non_max_suppression scale_coords scale_boxes xyxy2xywh xywh2xyxy xywhn2xyxy xyxy2xywhn "
    "clip_coords clip_boxes check_img_size check_file check_yaml check_dataset check_requirements check_imshow "
    "check_version increment_path make_divisible colorstr set_logging LOGGER Profile strip_optimizer apply_classifier "
    "init_seeds one_cycle labels_to_class_weights labels_to_image_weights fitness methods ROOT FILE print_args cv2 "
    "imread coco80_to_coco91_class get_latest_run is_ascii check_suffix intersect_dicts segments2boxes "
    "resample_segments",
    "utils.torch_utils": "select_device time_sync time_synchronized load_classifier model_info fuse_conv_and_bn "
    "intersect_dicts is_parallel de_parallel ModelEMA EarlyStopping smart_inference_mode scale_img copy_attr "
    "torch_distributed_zero_first initialize_weights find_modules",
    "utils.datasets": "LoadImages LoadStreams LoadWebcam letterbox IMG_FORMATS VID_FORMATS img_formats vid_formats "
    "create_dataloader exif_size LoadImagesAndLabels img2label_paths augment_hsv random_perspective",
    "utils.dataloaders": "LoadImages LoadStreams IMG_FORMATS VID_FORMATS create_dataloader letterbox",
    "utils.augmentations": "letterbox augment_hsv random_perspective mixup cutout box_candidates hist_equalize",
    "utils.plots": "Annotator colors Colors plot_one_box save_one_box output_to_target plot_images plot_results "
    "plot_labels feature_visualization plot_evolve",
    "utils.metrics": "ap_per_class bbox_iou box_iou ConfusionMatrix fitness bbox_ioa compute_ap wh_iou",
    "utils.loss": "ComputeLoss FocalLoss QFocalLoss BCEBlurWithLogitsLoss smooth_BCE",
    "utils.autoanchor": "check_anchors kmean_anchors check_anchor_order",
    "utils.downloads": "attempt_download is_url",
    "utils.google_utils": "attempt_download",
}


@pytest.mark.parametrize("module", IMPORTED)
def test_names_that_scripts_import_are_there(module):
    home = import_module(module)
    missing = [name for name in IMPORTED[module].split() if getattr(home, name, None) is None]
    assert missing == []


@pytest.mark.parametrize("page, words", [(PAGE, {}), (CHINESE_PAGE, CHINESE)], ids=["en", "zh"])
def test_the_page_lists_what_there_is_and_what_replaces_the_rest(page, words):
    """`python -m tests.utils.compat.test_names` writes both tables of docs/migrating.md and its Chinese edition."""
    assert page.read_text(encoding="utf-8") == with_tables(page.read_text(encoding="utf-8"), words)


def test_every_replacement_is_translated_and_no_other():
    assert {*MISSING.values(), "module", "names", "name", "instead"} == set(CHINESE)


def offered(module):
    """The names of YOLOv5 that a module hands out."""
    names = {*LAZY.get(module, {}), *(() if module in OWN else getattr(import_module(module), "__all__", ()))}
    return sorted((names | OWN.get(module, set())) - {"np", "torch"}, key=lambda name: (name.lower(), name))


def with_tables(page, words):
    def row(*cells):
        return f"| {' | '.join(words.get(cell, cell) for cell in cells)} |"

    comma = "、" if words else ", "
    names = [row("module", "names"), "| --- | --- |"]
    names += [row(f"`{module}`", comma.join(f"`{name}`" for name in offered(module))) for module in IMPORTED]
    remedies = {}
    for name, remedy in MISSING.items():
        remedies.setdefault(remedy, []).append(f"`{name}`")
    rest = [row("name", "instead"), "| --- | --- |"]
    rest += [row(comma.join(group), remedy) for remedy, group in remedies.items()]
    for title, rows in (("names", names), ("replacements", rest)):
        start = f"<!-- made by `python -m tests.utils.compat.test_names`: {title} -->\n"
        before, _, after = page.partition(start)
        end = f"<!-- end: {title} -->"
        page = "".join((before, start, "\n".join(rows), "\n", end, after.partition(end)[2]))
    return page


@pytest.mark.parametrize(
    "statement, message",
    [
        ("from utils.general import print_mutation", "train.py --evolve writes evolve.csv"),
        ("from utils.plots import plot_lr_scheduler", "results.csv has the learning rates"),
        ("from utils.datasets import LoadImage", "did you mean LoadImages"),
        ("from utils.loss import ComputeLosses", "did you mean ComputeLoss"),
        ("from models.common import DetectMultiBackends", "did you mean DetectMultiBackend"),
    ],
)
def test_a_name_that_is_not_there_says_what_to_take(statement, message):
    with pytest.raises(ImportError) as raised:
        exec(statement, {})
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_attributes_and_submodules_stay_what_they_are():
    import utils.plots

    assert not hasattr(utils.plots, "plot_lr_scheduler")
    with pytest.raises(AttributeError, match="learning rates"):
        _ = utils.plots.plot_lr_scheduler
    from utils.datasets import loader
    from utils.plots import canvas, colors

    assert loader.__name__ == "utils.datasets.loader" and canvas.__name__ == "utils.plots.canvas"
    assert colors(0) == colors(0, True)[::-1] != colors(1)


def test_a_star_import_gives_the_names():
    names = {}
    exec("from utils.general import *", names)
    assert {"non_max_suppression", "cv2", "LOGGER"} <= set(names) and "refuse" not in names


def test_detection_imports_none_of_this():
    """The names are for others: our own programs start without them."""
    code = "import sys; from utils.engine import detection; print(sorted(n for n in sys.modules if 'compat' in n))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert [name for name in eval(done.stdout) if name.startswith("utils.compat")] in ([], LIGHT)


if __name__ == "__main__":
    for path, translations in ((PAGE, {}), (CHINESE_PAGE, CHINESE)):
        path.write_text(with_tables(path.read_text(encoding="utf-8"), translations), encoding="utf-8")
