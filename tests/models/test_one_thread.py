"""In one thread oneDNN computes every convolution, with the results that torch's own code has."""

import copy

import pytest
import torch
from small_models import SMALL
from torch import nn
from torch.profiler import ProfilerActivity, profile

from models.inference import prepare_for_inference
from models.one_thread import use_onednn, use_onednn_throughout
from models.yolo import Model


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def kernels(function):
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        function()
    return {event.key for event in seen.key_averages()} & {"aten::_slow_conv2d_forward", "aten::mkldnn_convolution"}


@pytest.mark.parametrize("images", [1, 2, 8, 16])
@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"bias": False}, {"padding": 1}])
def test_a_point_convolution_has_the_same_output_and_gradients(threads, images, options):
    threads(1)
    torch.manual_seed(0)
    own = nn.Conv2d(16, 8, 1, **options).double()
    changed = copy.deepcopy(own)
    use_onednn(changed)
    assert changed.dilation == (2, 2)
    maps = torch.randn(images, 16, 12, 10, dtype=torch.float64).requires_grad_()
    target = torch.randn_like(own(maps))
    results = []
    for layer in (own, changed):
        output = layer(maps)
        results.append([output, *torch.autograd.grad((output * target).sum(), [maps, *layer.parameters()])])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_others_stay_as_they_are(threads):
    layers = [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, (1, 3)), nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1)]
    for count, dilated in ((2, 0), (1, 1)):
        threads(count)
        for layer in layers:
            use_onednn(layer)
        assert [layer.dilation for layer in layers].count((2, 2)) == dilated
    with torch.device("meta"):
        elsewhere = nn.Conv2d(4, 4, 1)
    use_onednn(elsewhere)
    assert elsewhere.dilation == (1, 1)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_a_network_that_trains_or_predicts_in_one_thread_takes_onednn_only(threads):
    threads(1)
    model = Model(SMALL, report=False)
    images = torch.rand(2, 3, 64, 64)
    assert "aten::_slow_conv2d_forward" in kernels(lambda: model(images)), "else torch has changed: remove the module"
    training = copy.deepcopy(model)
    use_onednn_throughout(training)
    assert kernels(lambda: training(images)) == {"aten::mkldnn_convolution"}
    with torch.no_grad():
        predicting = prepare_for_inference(copy.deepcopy(model).eval().requires_grad_(False))
        assert kernels(lambda: predicting(images)) == {"aten::mkldnn_convolution"}
        torch.testing.assert_close(predicting(images)[0], model.eval()(images)[0], rtol=1e-4, atol=1e-3)
