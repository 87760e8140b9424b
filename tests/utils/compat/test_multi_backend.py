"""DetectMultiBackend: v6.1's attributes and outputs, for a checkpoint and for an exported file."""

import pytest
import torch
from small_models import TINY

from models.yolo import Model
from utils.checkpoint import checkpoint_of, load_models, write_checkpoint
from utils.compat.auto_shape import AutoShape
from utils.compat.multi_backend import DetectMultiBackend
from utils.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    return write_checkpoint(checkpoint_of(Model(TINY), names=["a", "b", "c"]), path)


def test_a_checkpoint(checkpoint):
    model = DetectMultiBackend(str(checkpoint), device=torch.device("cpu"), dnn=False, data=None)
    assert (model.stride, model.names, model.pt, model.fp16, model.device.type) == (
        32,
        ["a", "b", "c"],
        True,
        False,
        "cpu",
    )
    assert not any((model.jit, model.onnx, model.xml, model.engine, model.tflite, model.ncnn))
    model.warmup(imgsz=(1, 3, 64, 64), half=False)
    image = torch.rand(1, 3, 64, 96)
    decoded, raw = load_models(checkpoint)(image)
    assert torch.equal(model(image), decoded)
    both = model(image, val=True)
    assert torch.equal(both[0], decoded) and torch.equal(both[1][0], raw[0])
    assert model(image, augment=True).shape[1] > decoded.shape[1]


def test_feature_maps_are_written(checkpoint, tmp_path):
    model = DetectMultiBackend(checkpoint)
    model(torch.rand(1, 3, 64, 64), visualize=tmp_path / "maps")
    assert len(list((tmp_path / "maps").glob("*.png"))) == 4
    model(torch.rand(1, 3, 64, 64))
    assert len(list((tmp_path / "maps").glob("*.png"))) == 4
    with pytest.raises(ConfigError, match="visualize=True: give the folder"):
        model(torch.rand(1, 3, 64, 64), visualize=True)


def test_unfused_several_and_missing(checkpoint):
    fused, plain = (DetectMultiBackend(checkpoint, fuse=fuse) for fuse in (True, False))
    count = [sum(isinstance(each, torch.nn.BatchNorm2d) for each in model.modules()) for model in (fused, plain)]
    assert count[0] == 0 < count[1]
    image = torch.rand(1, 3, 64, 64)
    assert torch.allclose(fused(image), plain(image), atol=1e-3)
    assert DetectMultiBackend([checkpoint, checkpoint])(image).shape[1] == 2 * plain(image).shape[1]
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        DetectMultiBackend("gone.pt")


def test_an_exported_file(checkpoint, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed: no exported file to load")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: no exported file is run")
    import export

    (file,) = export.run(weights=str(checkpoint), include=["onnx"], imgsz=(64, 64), device="cpu")
    model = DetectMultiBackend(file)
    assert model.onnx and not model.pt and model.names == ["a", "b", "c"] and model.stride == 32
    image = torch.rand(1, 3, 64, 64)
    expected = DetectMultiBackend(checkpoint)(image)
    assert torch.allclose(model(image), expected, atol=1e-3) and model(image, val=True)[1] == []
    with pytest.raises(ConfigError, match="an exported file has no layers"):
        model(image, visualize=tmp_path)
    shaped = AutoShape(model)
    shaped.conf = 0.0
    results = shaped((image[0].permute(1, 2, 0).numpy() * 255).astype("uint8"))  # at the file's size, not 640
    assert results.s == (1, 3, 64, 64)
