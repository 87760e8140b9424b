"""YOLOv5's functions by name. Figures beside "wheel" are those that its wheel 7.0.14 gives for the same input."""

import cv2
import numpy as np
import pytest
import torch

from models.experimental import attempt_load
from models.yolo import Model
from tests.small_models import SMALL
from tests.small_videos import number_of, write_video
from utils import general
from utils.augmentations import letterbox, random_perspective
from utils.autoanchor import check_anchor_order, check_anchors, kmean_anchors
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.compat.names import resolve
from utils.datasets import LoadImages, LoadStreams, create_dataloader, img2label_paths
from utils.errors import CheckpointError, ConfigError, DataError
from utils.loss import BCEBlurWithLogitsLoss, ComputeLoss, FocalLoss, QFocalLoss, smooth_BCE
from utils.metrics import ConfusionMatrix, ap_per_class, bbox_ioa, bbox_iou, compute_ap
from utils.plots import Annotator, colors, output_to_target, plot_images, plot_one_box, save_one_box
from utils.torch_utils import EarlyStopping, ModelEMA, copy_attr, scale_img, select_device

ROWS = torch.tensor(
    [
        [
            [50.0, 50, 20, 20, 0.9, 0.8, 0.1],
            [52, 50, 20, 20, 0.8, 0.9, 0.1],
            [50, 52, 22, 20, 0.9, 0.1, 0.9],
            [150, 80, 40, 30, 0.7, 0.2, 0.6],
        ]
    ]
)
FIRST, SECOND, THIRD, FOURTH = (
    [39, 42, 61, 62, 0.81, 1],
    [40, 40, 60, 60, 0.72, 0],
    [130, 65, 170, 95, 0.42, 1],
    [130, 65, 170, 95, 0.14, 0],
)


@pytest.mark.parametrize(
    "options, wheel",
    [
        ({}, [FIRST, SECOND, THIRD]),
        ({"agnostic": True}, [FIRST, THIRD]),
        ({"multi_label": True, "conf_thres": 0.1}, [FIRST, SECOND, THIRD, FOURTH]),
        ({"classes": [1]}, [FIRST, THIRD]),
    ],
)
def test_suppression_gives_rows(options, wheel):
    (found,) = general.non_max_suppression(ROWS, **options)
    np.testing.assert_allclose(found, wheel, atol=1e-4)
    (of_tuple,) = general.non_max_suppression((ROWS, None), **options)  # as v7's forward returns it
    assert torch.equal(found, of_tuple)


def test_boxes_are_scaled_in_place():
    coords = torch.tensor([[10.0, 200, 630, 430]])
    scaled = general.scale_coords((384, 640), coords, (720, 1280, 3))
    assert scaled is coords and coords.tolist() == [[20, 376, 1260, 720]]  # wheel
    given = general.scale_boxes((640, 640), torch.tensor([[10.0, 200, 630, 430]]), (720, 1280), ((0.5, 0.5), (0, 140)))
    assert given.tolist() == [[20, 120, 1260, 580]]


def test_conversions_keep_further_columns():
    rows = np.array([[10.0, 20, 30, 60, 0.5, 7]])
    assert general.xyxy2xywh(rows).tolist() == [[20, 40, 20, 40, 0.5, 7]] and rows[0, 0] == 10
    assert general.xywh2xyxy(general.xyxy2xywh(torch.from_numpy(rows))).tolist() == rows.tolist()
    normalized = general.xyxy2xywhn(np.array([[-10.0, 20, 30, 60]]), w=100, h=50, clip=True)
    assert normalized.tolist() == [[0.15, 0.7, 0.3, 0.6]]
    assert general.xywhn2xyxy(normalized, 100, 50, 1, 2).round(6).tolist() == [[1, 22, 31, 52]]


@pytest.mark.parametrize(
    "shape, target, auto, wheel",
    [
        ((1080, 810), 640, True, ((640, 480), 0.592593, (0, 0))),
        ((720, 1280), 640, True, ((384, 640), 0.5, (0, 12))),
        ((75, 100), (96, 160), False, ((96, 160), 1.28, (16, 0))),
        ((101, 333), (256, 256), True, ((96, 256), 0.768769, (0, 9))),
    ],
)
def test_letterbox_returns_image_ratio_and_border(shape, target, auto, wheel):
    image, ratio, pad = letterbox(np.zeros((*shape, 3), np.uint8), target, auto=auto)
    assert (image.shape[:2], round(ratio[0], 6), tuple(pad)) == wheel and ratio[0] == ratio[1]
    assert image[0, 0].tolist() == ([114] * 3 if pad != (0, 0) else [0] * 3)


def test_metrics_come_as_tuples():
    tp, conf = np.arange(120).reshape(12, 10) % 7 < 3, np.linspace(0.95, 0.2, 12)
    target = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    right, wrong, precision, recall, f1, ap, classes = ap_per_class(tp, conf, np.arange(12) % 3, target)
    np.testing.assert_allclose([right, wrong], [[2, 2, 1], [2, 2, 3]])  # wheel, as all that follow
    np.testing.assert_allclose(precision, [0.5, 0.5, 0.26191], atol=1e-5)
    np.testing.assert_allclose(recall, [0.66667, 1, 0.25], atol=1e-5)
    np.testing.assert_allclose(f1, [0.57143, 0.66667, 0.25582], atol=1e-5)
    np.testing.assert_allclose(ap.mean(1), [0.5224, 0.55754, 0.41817], atol=1e-5)
    assert classes.tolist() == [0, 1, 2] and classes.dtype == np.int32
    assert ap_per_class(tp[:, :1], conf, np.arange(12) % 3, target)[5].shape == (3, 1)
    assert compute_ap([0.2, 0.4, 0.4, 0.8], [1, 0.8, 0.6, 0.5])[0] == pytest.approx(0.649)


def test_the_confusion_matrix_takes_rows(tmp_path, blank_figures):
    found = [[0.0, 0, 10, 10, 0.9, 0], [20, 20, 30, 30, 0.8, 1], [50, 50, 60, 60, 0.5, 0], [0, 0, 10, 10, 0.2, 1]]
    labels = [[0.0, 1, 0, 10, 10], [0, 20, 20, 30, 30], [1, 80, 80, 90, 90]]
    matrix = ConfusionMatrix(nc=2, conf=0.25, iou_thres=0.45)
    matrix.process_batch(torch.tensor(found), torch.tensor(labels))
    assert matrix.matrix.tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]  # wheel
    assert [values.tolist() for values in matrix.tp_fp()] == [[1, 0], [1, 1]]  # wheel
    matrix.process_batch(None, torch.tensor(labels))
    assert matrix.matrix[2].tolist() == [2, 2, 0]
    matrix.plot(save_dir=tmp_path, names={0: "cat", 1: "dog"})
    assert (tmp_path / "confusion_matrix.png").exists()


def test_overlaps_in_the_forms_of_v6_and_v7():
    box, boxes = torch.tensor([10.0, 10, 50, 40]), torch.tensor([[20.0, 15, 60, 50], [200, 200, 240, 250]])
    wheel = {"IoU": [0.40541, 0], "GIoU": [0.33041, -0.94203], "DIoU": [0.3673, -0.68869], "CIoU": [0.36729, -0.68934]}
    for kind, values in wheel.items():
        options = {} if kind == "IoU" else {kind: True}
        np.testing.assert_allclose(bbox_iou(box, boxes, **options), values, atol=2e-5)
        np.testing.assert_allclose(bbox_iou(box[None], boxes, xywh=False, **options)[:, 0], values, atol=2e-5)
    columns = general.xyxy2xywh(boxes)
    assert bbox_iou(columns.T, columns, x1y1x2y2=False, CIoU=True).tolist() == pytest.approx([1, 1])
    np.testing.assert_allclose(bbox_ioa(box.numpy(), boxes.numpy()), [0.53571, 0], atol=1e-5)


def test_the_loss_takes_a_network():
    model = Model("yolov5n.yaml")
    model.hyp = {"box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}
    raw = [torch.sin(torch.arange(2 * 3 * h * h * 85).float() * 0.37).view(2, 3, h, h, 85) for h in (16, 8, 4)]
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.2, 0.3], [0, 5, 0.3, 0.4, 0.5, 0.4], [1, 16, 0.6, 0.6, 0.1, 0.1]])
    compute_loss = ComputeLoss(model)
    loss, items = compute_loss(raw, targets)
    np.testing.assert_allclose(loss, [10.765502], rtol=1e-5)  # wheel, as all that follow
    np.testing.assert_allclose(items, [0.12755068, 4.131927, 1.1232733], rtol=1e-5)
    classes, boxes, indices, anchors = compute_loss.build_targets(raw, targets)
    assert [len(values) for values in classes] == [27, 24, 6]
    assert [tuple(values.shape) for values in boxes] == [(27, 4), (24, 4), (6, 4)] and len(indices[0]) == 4
    assert tuple(anchors[0].shape) == (27, 2)


def test_cross_entropies():
    pred, true = torch.tensor([[-1.0, 2, 0.5]]), torch.tensor([[0.0, 1, 0.3]])
    losses = FocalLoss(torch.nn.BCEWithLogitsLoss()), QFocalLoss(torch.nn.BCEWithLogitsLoss()), BCEBlurWithLogitsLoss()
    figures = [0.078398578, 0.041537493, 0.421421856]  # wheel
    assert [float(loss(pred, true)) for loss in losses] == pytest.approx(figures)
    assert smooth_BCE(0.1) == (0.95, 0.05)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    return write_checkpoint(checkpoint_of(Model(SMALL), names=["a", "b", "c"]), tmp_path_factory.mktemp("w") / "x.pt")


def test_attempt_load_in_all_its_forms(weights, tmp_path):
    device = torch.device("cpu")
    x = torch.rand(1, 3, 64, 64)
    forms = attempt_load(str(weights)), attempt_load([str(weights)], map_location=device), attempt_load(weights, device)
    for model in (*forms, attempt_load(weights, device=device, inplace=True, fuse=True)):
        decoded, raw = model(x, augment=False, profile=False, visualize=False)
        assert not model.training and decoded.shape[2] == 8 and len(raw) == 2 and model.names == ["a", "b", "c"]
    assert int(forms[0].stride.max()) == 8 and forms[0].model[-1].nc == 3
    both = attempt_load([weights, weights])
    assert both(x, augment=False)[0].shape[1] == 2 * decoded.shape[1] and len(both) == 2
    forms[0](x, visualize=str(tmp_path / "maps"))
    assert len(list((tmp_path / "maps").glob("*.png"))) == 5
    with pytest.raises(CheckpointError, match="--download fetches it"):
        attempt_load("yolov5s6.pt")


def test_images_come_before_videos_and_in_bgr(tmp_path):
    write_video(tmp_path / "a.mp4", frames=3)
    cv2.imwrite(str(tmp_path / "b.png"), np.full((40, 80, 3), (255, 0, 0), np.uint8))
    (tmp_path / "notes.txt").write_text("none of this")
    dataset = LoadImages(str(tmp_path), img_size=64, stride=32)
    items = list(dataset)
    assert (dataset.nf, len(items)) == (2, 4) and [bool(item[3]) for item in items] == [False, True, True, True]
    path, im, im0, cap, s = items[0]
    assert path == str(tmp_path / "b.png") and s == f"image 1/2 {path}: " and cap is None
    assert im0[0, 0].tolist() == [255, 0, 0] and im.shape == (3, 32, 64) and im[:, 16, 32].tolist() == [0, 0, 255]
    assert items[3][4] == f"video 2/2 (3/3) {tmp_path / 'a.mp4'}: "
    assert [number_of(item[2]) for item in items[1:]] == [1, 2, 3]
    for _, (older_path, _, _, older_cap) in enumerate(dataset):  # as until v6.0
        assert older_path and (older_cap is None) == older_path.endswith("png")
    for path, _im, _im0, cap in LoadImages(tmp_path / "b.png"):  # noqa: B007  as until v6.0
        assert cap is None
    with pytest.raises(DataError, match=r"b\.pn: no such file or folder \(did you mean b\.png"):
        LoadImages(str(tmp_path / "b.pn"))


def test_streams_give_a_batch(tmp_path):
    file = write_video(tmp_path / "a.mp4", frames=3)
    (tmp_path / "two.txt").write_text(f"{file}\n{file}\n")
    items = list(LoadStreams(tmp_path / "two.txt", img_size=64))
    assert len(items) == 3 and items[0][1].shape == (2, 3, 64, 64) and items[0][3:] == (None, "")
    assert [[number_of(image) for image in item[2]] for item in items] == [[1, 1], [2, 2], [3, 3]]


def test_a_dataloader_gives_tuples(tmp_path):
    for index in range(3):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.full((40, 80, 3), 50 * index, np.uint8))
        (tmp_path / "labels" / f"{index}.txt").write_text(f"{index} 0.5 0.5 0.25 0.5\n")
    loader, dataset = create_dataloader(str(tmp_path / "images"), 64, 2, 32, rect=True, pad=0.5, workers=0)
    batches = list(loader)
    images, targets, paths, shapes = batches[0]
    assert len(batches) == len(loader) == 2 and images.dtype == torch.uint8 and images.shape == (2, 3, 64, 96)
    assert targets[:, 0].tolist() == [0, 1] and paths[0].endswith("0.png")
    assert shapes[0] == ((40, 80), ((0.8, 0.8), (16, 16)))
    assert dataset.shapes.tolist() == [[80, 40]] * 3 and dataset.labels[2].tolist() == [[2, 0.5, 0.5, 0.25, 0.5]]
    image, labels, _, _ = dataset[1]
    assert image.shape == (3, 64, 96) and labels.shape == (1, 6)
    collated = dataset.collate_fn([dataset[0], dataset[1]])
    assert torch.equal(collated[0], images) and torch.equal(collated[1], targets)
    assert img2label_paths(["/a/images/b/images/c.jpg"]) == ["/a/images/b/labels/c.txt"]


def test_boxes_are_drawn_on_the_image_itself(tmp_path):
    image = np.zeros((100, 200, 3), np.uint8)
    annotator = Annotator(image, line_width=2, example="中文")
    annotator.box_label(torch.tensor([50.0, 40, 150, 90]), "person 0.9", color=colors(0, True))
    annotator.text((5, 5), "note", txt_color=(255, 255, 255))
    assert annotator.result() is image and image[65, 50].tolist() == list(colors(0, True))
    assert image[30:39, 55:100].any() and image[5:20, 5:40].max() > 200
    other = np.zeros((100, 200, 3), np.uint8)
    plot_one_box([10, 10, 90, 90], other, color=[1, 2, 3], label="x", line_thickness=1)
    assert other[50, 10].tolist() == [1, 2, 3]
    crop = save_one_box(torch.tensor([50.0, 40, 150, 90]), image, file=tmp_path / "crops" / "a.jpg", BGR=True)
    assert crop.shape == (61, 112, 3) and (tmp_path / "crops" / "a.jpg").exists()
    targets = output_to_target([torch.tensor([[10.0, 20, 30, 60, 0.9, 2]])])
    assert targets.tolist() == [[0, 2, 20, 40, 20, 40, pytest.approx(0.9)]]
    plot_images(torch.zeros(1, 3, 64, 64), targets, fname=tmp_path / "grid.jpg", names=["a", "b", "c"])
    assert (tmp_path / "grid.jpg").exists()


def test_checks_look_and_report(tmp_path, caplog):
    assert general.check_img_size(641, s=torch.tensor(32)) == 672
    assert general.check_img_size([640, 361], 32) == [640, 384]
    assert general.check_file("yolov5n.yaml").endswith("models/yolov5n.yaml")
    with pytest.raises(DataError, match=r"did you mean .*yolov5n\.yaml"):
        general.check_yaml("yolov5nn.yaml")
    with pytest.raises(ConfigError, match="is not downloaded"):
        general.check_file("https://example.com/a.yaml")
    assert general.check_requirements(["numpy>=1.0", "torch"])
    assert not general.check_requirements(("numpy>=99", "no-such-package"))
    assert 'pip install "numpy>=99" "no-such-package"' in caplog.text
    assert general.check_version("1.10.2+cu113", "1.9.0") and not general.check_version("1.8", "1.9")


def test_small_functions(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp4").mkdir()
    (tmp_path / "a.txt").touch()
    assert general.increment_path(tmp_path / "exp").name == "exp5"
    assert general.increment_path(tmp_path / "exp", exist_ok=True).name == "exp"
    assert general.increment_path(tmp_path / "a.txt", sep="_", mkdir=False).name == "a_2.txt"
    assert general.increment_path(tmp_path / "new", mkdir=True).is_dir()
    assert general.colorstr("red", "bold", "x") == "\x1b[31m\x1b[1mx\x1b[0m"
    labels = [np.array([[0, 0.1, 0.1, 0.1, 0.1], [2, 0.1, 0.1, 0.1, 0.1]]), np.array([[2, 0.1, 0.1, 0.1, 0.1]])]
    assert general.labels_to_class_weights(labels, 3).tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert general.labels_to_image_weights(labels, 3, np.array([1.0, 2, 3])).tolist() == [4, 3]
    assert general.one_cycle(1, 0.1, 100)(50) == pytest.approx(0.55)
    assert general.coco80_to_coco91_class()[79] == 90 and len(general.coco80_to_coco91_class()) == 80
    assert general.clean_str("rtsp://a:b@c?d=1") == "rtsp_//a_b_c_d_1"
    with general.Profile() as clock:
        pass
    assert 0 <= clock.dt == clock.t < 1


def test_functions_on_networks():
    model = Model(SMALL)
    average = ModelEMA(model)
    average.update(model)
    assert average.ema is average.module and average.updates == 1
    assert scale_img(torch.rand(1, 3, 64, 96), 0.83).shape == (1, 3, 64, 96)
    stopper = EarlyStopping(patience=2)
    assert [stopper(epoch, fitness) for epoch, fitness in enumerate((0.1, 0.3, 0.2, 0.2))] == [
        False,
        False,
        False,
        True,
    ]
    assert select_device("cpu") == torch.device("cpu") and select_device(torch.device("cpu")).type == "cpu"
    head = model.model[-1]
    before = head.anchors.clone()
    head.anchors[:] = before.flip(0) * head.stride.flip(0).view(-1, 1, 1) / head.stride.view(-1, 1, 1)
    copied = type("Plain", (), {})()
    copy_attr(copied, model, include=("yaml_file",))
    assert vars(copied) == {"yaml_file": model.yaml_file}
    check_anchor_order(head)
    assert head.anchors[0].prod() < head.anchors[1].prod() * 4


class _Boxes:
    """A dataset as v6.1's: one image of 64 x 64 with 30 boxes of about 40 x 20 pixels."""

    shapes = np.array([[64.0, 64.0]])
    labels = [np.column_stack((np.zeros((30, 3)), np.linspace(0.6, 0.65, 30), np.linspace(0.3, 0.33, 30)))]


def test_anchors_are_fitted():
    fitted = kmean_anchors(_Boxes(), n=2, img_size=64, gen=20, verbose=False)
    assert fitted.shape == (2, 2) and np.abs(fitted - [40, 20]).max() < 3
    model = Model(SMALL | {"anchors": [[200, 230, 216, 230], [260, 270, 290, 280]]})
    check_anchors(_Boxes(), model, thr=4.0, imgsz=64)
    assert np.abs(model.geometry.anchors_px.numpy() - [40, 20]).max() < 10


def test_a_random_view_moves_boxes_along():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 30:70] = 255
    seen, targets = random_perspective(
        image, np.array([[1, 30.0, 40, 70, 60]]), degrees=0, translate=0.2, scale=0.3, shear=0
    )
    rows, columns = np.nonzero(seen[..., 0] == 255)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert targets[0, 0] == 1 and np.abs(targets[0, 1:] - box).max() < 2.5


def test_a_lazy_name_is_looked_up_once():
    import utils.plots

    assert resolve("utils.plots", "save_one_box") is vars(utils.plots)["save_one_box"]
