"""AutoShape and its results: images of any kind, YOLOv5's boxes, attributes and files of v6.1's Detections."""

import copy

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from red_finder import RedFinder, scene

from utils.compat.auto_shape import AutoShape
from utils.compat.hub_detections import HubDetections
from utils.compat.multi_backend import DetectMultiBackend
from utils.errors import ConfigError, DataError
from utils.images import read_image, write_image

BOX = (20, 30, 90, 80)
# of YOLOv5 7.0.14's AutoShape with yolov5n.pt at size 640: xyxy, confidence, class
REFERENCE = {
    "bus.jpg": [
        [55.213, 397.669, 210.819, 889.383, 0.87576, 0],
        [683.344, 367.201, 810.0, 880.821, 0.80474, 0],
        [216.391, 408.816, 345.594, 864.603, 0.78698, 0],
        [0.0, 572.617, 71.917, 892.597, 0.51907, 0],
        [22.967, 227.983, 805.709, 780.541, 0.49181, 5],
    ],
    "zidane.jpg": [
        [742.666, 39.552, 1154.487, 715.109, 0.78771, 0],
        [134.034, 180.672, 742.214, 720.0, 0.41168, 0],
        [435.760, 433.875, 503.001, 712.018, 0.26847, 27],
    ],
}
MULTI_LABEL_ROW = [0.0, 574.339, 70.845, 885.550, 0.12127, 26]  # of bus.jpg at conf 0.1 with multi_label


@pytest.fixture
def model():
    return AutoShape(RedFinder().eval())


@pytest.fixture
def image():
    return scene(BOX, (96, 128))


@pytest.fixture(scope="module")
def published(real):
    return AutoShape(DetectMultiBackend(real("weights/yolov5n.pt"), device="cpu"))


def close(rows, expected):
    assert rows.shape == (len(expected), 6)
    expected = torch.tensor(expected)
    assert (rows[:, :4] - expected[:, :4]).abs().max() < 1 and (rows[:, 4] - expected[:, 4]).abs().max() < 0.005
    assert torch.equal(rows[:, 5], expected[:, 5])


def test_boxes_of_yolov5_alone_and_in_a_list(published, real):
    paths = [real(f"images/{name}") for name in REFERENCE]
    together = published(paths)
    for index, path in enumerate(paths):
        close(together.xyxy[index], REFERENCE[path.name])
        assert torch.equal(published(path).xyxy[0], together.xyxy[index])  # to the last bit, whatever is beside it
    assert str(together).splitlines()[0] == "image 1/2: 1080x810 4 persons, 1 bus" and together.s == (2, 3, 640, 640)
    assert published(str(paths[0])).s == (1, 3, 640, 480)


def test_settings_of_the_model(published, real):
    model, path = copy.copy(published), real("images/bus.jpg")
    model.conf, model.multi_label = 0.1, True
    close(model(path).xyxy[0], [*REFERENCE["bus.jpg"], MULTI_LABEL_ROW])
    model.conf, model.multi_label, model.classes = 0.25, False, ["bus"]
    assert model(path).xyxy[0][:, 5].tolist() == [5]
    model.classes, model.max_det = 0, 2
    close(model(path).xyxy[0], REFERENCE["bus.jpg"][:2])
    model.classes = "bis"
    with pytest.raises(ConfigError, match="bis.*did you mean bus"):
        model(path)
    model.classes, model.conf = None, 25
    with pytest.raises(ConfigError, match="conf = 25: expected a number in 0..1"):
        model(path)


def test_images_of_every_kind_are_one(model, image, tmp_path):
    write_image(tmp_path / "a.png", image)
    kinds = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        image,
        image.transpose(2, 0, 1),
        image.astype(np.float32),
        np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]),
        Image.fromarray(image),
        Image.open(tmp_path / "a.png"),
        cv2.imread(str(tmp_path / "a.png"))[..., ::-1],
    ]
    results = model(kinds, size=128)
    assert len(results) == len(kinds) == results.n
    for rows in results.pred:
        assert torch.equal(rows, results.pred[0]) and len(rows) == 1
        assert rows[0, :4].tolist() == pytest.approx(BOX, abs=3)
    assert results.files[:3] == ["a.jpg", "a.jpg", "image2.jpg"] and results.files[7] == "a.jpg"
    assert torch.equal(model(np.stack([image, image]), size=128).pred[1], results.pred[0])
    gray = np.full((40, 50), 9, np.uint8)
    assert model(gray).ims[0].shape == (40, 50, 3) and len(model([])) == 0


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("gone.jpg", "gone.jpg"),
        ("https://example.com/a.jpg", "is an address; model(..., download=True) fetches it"),
        (".", "a folder; pass the paths of its images"),
        ("clip.mp4", "a video; pass its frames"),
        (np.zeros((40, 40, 3), bool), "image0: expected an array of numbers 0..255, got bool"),
        (np.full((40, 40, 3), 0.5, np.float32), "expected values 0..255, got float32 from 0.5 to 0.5"),
        (np.full((40, 40, 3), 300, np.int32), "expected values 0..255"),
        (np.zeros((40, 40, 5), np.uint8), "expected an array (H, W, 3), (3, H, W) or (H, W), got (40, 40, 5)"),
        (np.zeros((4, 40, 3), np.uint8), "smaller than 10 pixels"),
        ([torch.zeros(3, 64, 64)], "a tensor in a list"),
        (7, "expected a path, an array or a PIL image"),
    ],
)
def test_what_is_no_image_is_one_line(model, wrong, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as found:
        model(wrong)
    assert words in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (0, 3, 64, 64), (64, 64)])
def test_a_tensor_of_another_shape_is_one_line(model, shape):
    with pytest.raises(ConfigError, match=r"\(B, 3, H, W\); this one is \(\d+"):
        model(torch.zeros(shape))


@pytest.mark.parametrize("size", [0, -1, "640", 320.5, 10**6, (64, 64, 64), None])
def test_a_size_that_is_none_is_one_line(model, image, size):
    with pytest.raises(ConfigError, match="size = .*expected pixels"):
        model(image, size=size)


@pytest.mark.parametrize("name, value", [("max_det", 0), ("max_det", "3"), ("batch_size", 0), ("batch_size", None)])
def test_a_count_that_is_none_is_one_line(model, image, name, value):
    setattr(model, name, value)  # a batch size of 0 found nothing, silently
    with pytest.raises(ConfigError, match=rf"model\.{name} = .*at least 1"):
        model(image)


def test_a_deep_pil_image_is_not_clipped(model, image):
    deep = Image.fromarray(image[..., 0].astype(np.uint16) * 256)  # convert("RGB") made all of it white
    with pytest.raises(DataError, match="expected values 0..255, got .* scale them"):
        model(deep)
    assert len(model(Image.fromarray(image[..., 0].astype(np.float32)))) == 1


def test_a_tensor_goes_through(model):
    batch = torch.zeros(2, 3, 64, 64)
    decoded, _ = model(batch)
    assert torch.equal(decoded, model.model(batch)[0])
    with pytest.raises(ConfigError, match=r"torch.uint8: divide it by 255"):
        model(batch.to(torch.uint8))


def test_training_mode_is_left_as_it_is(model, image):
    expected = model(image, size=128).pred[0]
    model.train()
    assert torch.equal(model(image, size=128).pred[0], expected) and model.model.training


def test_formats_of_the_boxes_agree(model, image):
    results = model([image, scene((10, 10, 50, 60), (64, 80))], size=128)
    for index, (height, width) in enumerate([(96, 128), (64, 80)]):
        x1, y1, x2, y2, confidence, _ = results.xyxy[index][0].tolist()
        center = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        sides = [width, height, width, height]
        assert results.xywh[index][0, :4].tolist() == pytest.approx(center)
        assert results.xyxyn[index][0, :4].tolist() == pytest.approx(np.divide([x1, y1, x2, y2], sides))
        assert results.xywhn[index][0, :4].tolist() == pytest.approx(np.divide(center, sides), rel=1e-5)
        assert all(each[index][0, 4] == confidence for each in (results.xywh, results.xyxyn, results.xywhn))
    first, second = results
    assert torch.equal(second.xyxy[0], results[1].xyxy[0]) and second.files == ["image1.jpg"] and first.n == 1
    assert len(results.t) == 3 and min(results.t) >= 0 and len(results.times) == 4


def test_files_are_numbered_and_crops_cut(model, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two").mkdir()
    for name in ("a.png", "two/a.png"):
        write_image(tmp_path / name, image)
    results = model(["a.png", "two/a.png"], size=128)
    assert results.save().as_posix() == "runs/detect/exp" and results.save().as_posix() == "runs/detect/exp2"
    assert results.save(save_dir="mine") == results.save(save_dir="mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["a.jpg", "a_2.jpg"]
    crops = results.crop(save_dir="mine")
    assert len(crops) == 2 and sorted(path.name for path in (tmp_path / "mine" / "crops").rglob("*.jpg")) == [
        "a.jpg",
        "a_2.jpg",
    ]
    left, top, right, bottom = crops[0]["box"].tolist()
    height, width = crops[0]["im"].shape[:2]
    assert abs(width - (right - left) * 1.02 - 10) <= 1 and abs(height - (bottom - top) * 1.02 - 10) <= 1
    red = crops[0]["im"][height // 2, width // 2]
    assert red[2] > 150 > red[0]  # BGR
    assert crops[0]["label"] == f"{model.names[1]} {float(crops[0]['conf']):.2f}"
    assert np.array_equal(read_image("a.png")[0], image)  # an input is never written to


def test_render_draws_into_ims_once(model, image):
    results = model(image, size=128)
    assert np.array_equal(results.ims[0], image)
    drawn = results.render()[0].copy()
    assert results.imgs is results.ims and not np.array_equal(drawn, image)
    assert np.array_equal(results.render()[0], drawn)  # on the image, not on boxes
    results.display(render=True, labels=False)
    assert not np.array_equal(results.ims[0], drawn)


def test_print_and_show_without_a_display(model, image, capsys, monkeypatch, caplog):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    results = model(image, size=128)
    results.print()
    assert capsys.readouterr().out.startswith("image 1/1: 96x128 1 ")
    monkeypatch.setattr("sys.platform", "linux")
    results.show()
    assert "there is no display here" in caplog.text


def test_the_class_of_results_takes_v6_1s_arguments():
    rows = torch.tensor([[0.0, 0.0, 10.0, 20.0, 0.5, 1.0]])
    made = HubDetections([np.zeros((40, 20, 3), np.uint8)], [rows], ["a.jpg"], (0.0, 0.001, 0.003, 0.006), {1: "b"})
    assert made.t == pytest.approx((1, 2, 3)) and made.xyxyn[0][0].tolist() == [0, 0, 0.5, 0.5, 0.5, 1]


@pytest.mark.oracle
def test_pandas(model, image, monkeypatch):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: results.pandas() is not run")
    results = model(image, size=128)
    tables = results.pandas()
    (table,) = tables.xyxy
    assert isinstance(table, pandas.DataFrame)
    assert list(table) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert table.iloc[0, :4].tolist() == results.xyxy[0][0, :4].tolist() and table["name"][0] == model.names[1]
    assert list(tables.xywhn[0])[:4] == ["xcenter", "ycenter", "width", "height"]
    assert isinstance(results.xyxy[0], torch.Tensor)


@pytest.mark.oracle
def test_supervision(model, image):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed: to_supervision() is not run")
    results = model(image, size=128)
    (found,) = results.to_supervision()
    theirs = supervision.Detections.from_yolov5(results)
    assert np.array_equal(found.xyxy, theirs.xyxy) and np.array_equal(found.confidence, theirs.confidence)
    assert np.array_equal(found.class_id, theirs.class_id) and found.data["class_name"].tolist() == [model.names[1]]


@pytest.mark.parametrize("package, call", [("pandas", "pandas"), ("supervision", "to_supervision")])
def test_a_package_that_is_missing_is_one_line(model, image, package, call, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigError, match=f"{package} is not installed; pip install {package}"):
        getattr(model(image, size=128), call)()
