"""Every variant on a CUDA device that is none: no wrong device, no clash of types, no wait of the host in a step."""

import pytest
import torch
from fake_cuda import DeviceWatch, fake_cuda, mixed_precision, on_fake_cuda
from torch import nn

from models.recording import recording
from models.yolo import Model
from models.zoo.table import load_variants
from utils.config import Hyperparameters
from utils.engine.build import warn_of_nondeterminism
from utils.engine.model_ema import ModelEMA
from utils.engine.optim import build_optimizer
from utils.engine.trainer import Trainer, TrainingComponents
from utils.files import ROOT
from utils.loss import DetectionLoss
from utils.types import StepSettings, TrainState

PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
# Fast: the base, a gate, a window, sampling at offsets. The others are slow only because they are many.
FAST = ("CBAM", "Swin", "DAT", "DLKA")
VARIANTS = [
    pytest.param(name, marks=() if name in ("base", *FAST) else pytest.mark.slow) for name in ("base", *load_variants())
]


# Operators whose CUDA gradient (or, of the last, value) has no reproducible form, by torch's documentation of
# use_deterministic_algorithms and torchvision's kernels.
NONDETERMINISTIC = {
    "grid_sampler_2d": "grid_sample",
    "deform_conv2d": "deform_conv2d",
    **{f"upsample_{kind}2d": "interpolate" for kind in ("bilinear", "bicubic", "linear")},
    **{name: name for name in ("_adaptive_avg_pool2d", "adaptive_max_pool2d", "reflection_pad2d", "replication_pad2d")},
    **{
        name: name
        for name in ("max_unpool2d", "median", "kthvalue", "histc", "bincount", "cumsum", "put_", "embedding_bag")
    },
}


def network(variant: str) -> Model:
    return Model(str(ROOT / "models" / ("yolov5n.yaml" if variant == "base" else f"yolov5n_{variant}.yaml")))


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_what_a_variant_records_stays_on_its_device(variant):
    model = network(variant).eval()
    with fake_cuda(), torch.no_grad():
        on_fake_cuda(model)
        watch = DeviceWatch()
        with watch, mixed_precision(torch.float16), recording() as records:
            model(torch.empty(2, 3, 256, 320, device="cuda"))
    assert watch.faults == set() and torch.float16 in watch.dtypes and records
    for shown in records:
        assert shown.values.is_cuda and (shown.keys is None or shown.keys.is_cuda)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_stays_on_its_device_and_in_its_types(variant, precision):
    model, dtype = network(variant), PRECISIONS[precision]
    with fake_cuda(), torch.no_grad():
        on_fake_cuda(model)
        loss = DetectionLoss(model.geometry, Hyperparameters(), "cuda")
        images, targets = torch.empty(2, 3, 256, 320, device="cuda"), torch.empty(7, 6, device="cuda")
        for training in (True, False):
            watch = DeviceWatch()
            with watch, mixed_precision(dtype):
                output = model.train(training)(images)
                total = loss(output, targets)[0] if training else output[0]
            assert watch.faults == set() and watch.operators > 100
            used = {NONDETERMINISTIC[name] for name in watch.names & NONDETERMINISTIC.keys()}
            assert used == {
                module.nondeterministic for module in model.modules() if hasattr(module, "nondeterministic")
            }
            assert dtype is None or dtype in watch.dtypes  # else autocast was off and nothing was tested
            assert total.device.type == "cuda" and total.dtype == torch.float32
        assert output[0].shape == (2, 3 * (32 * 40 + 16 * 20 + 8 * 10), 85)


@pytest.mark.parametrize(
    ("variant", "optimizer"),
    [
        *(pytest.param(*each.values, "SGD", marks=each.marks, id=f"{each.values[0]}-SGD") for each in VARIANTS),
        ("CBAM", "Adam"),
        ("CBAM", "AdamW"),
        ("CBAM", "MuSGD"),
    ],
)
def test_a_step_of_the_optimizer_and_the_ema_waits_for_nothing(variant, optimizer):
    model = network(variant)
    with fake_cuda():
        on_fake_cuda(model)
        stepper = build_optimizer(model, optimizer, lr=0.01, momentum=0.9, weight_decay=5e-4)
        for group in stepper.param_groups:
            group["fused"] = False  # a fused step asks the driver
        for weight in model.parameters():
            weight.grad = torch.empty_like(weight)
        scaler = torch.amp.GradScaler("cuda", enabled=False)
        components = TrainingComponents(
            model,
            None,
            stepper,
            lambda step: StepSettings((0.1,) * 3, 0.9, 1),
            ModelEMA(model),
            [],
            torch.device("cuda"),
            scaler,
        )
        with DeviceWatch() as watch:
            Trainer(components, TrainState(), 1).optimizer_step()
    assert watch.faults == set() and watch.operators > 50


class Faulty(nn.Module):
    """One fault at a time, for the watch."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.weight, self.table = fault, nn.Parameter(torch.ones(4, 4)), torch.ones(4, 4)

    def forward(self, x):
        return self.fault(self, x)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lambda self, x: x.cpu(), "copies to the host"),
        (lambda self, x: torch.empty(4, 4).copy_(x), "copies to the host"),
        (lambda self, x: x + self.table, "DeviceMismatchError"),
        (lambda self, x: x[self.table[0].long()], "tensors of two devices"),
        (lambda self, x: x[x > 0], "DynamicOutputShapeException"),
        (lambda self, x: x.index_put((x > 0,), x.new_zeros(())), "a mask"),
        (lambda self, x: x.half() @ self.weight, "torch.float16 and torch.float32"),
        (lambda self, x: x.sum().item(), "DataDependentOutputException"),
        (lambda self, x: x.nonzero(), "DynamicOutputShapeException"),
    ],
)
def test_the_watch_sees(fault, named):
    with fake_cuda(), torch.no_grad():
        module = on_fake_cuda(Faulty(fault))
        with DeviceWatch() as watch:
            try:
                module(torch.empty(4, 4, device="cuda"))
                seen = "; ".join(watch.faults)
            except Exception as error:  # which one the mode raises is what is asked
                seen = type(error).__name__
    assert named in seen


@pytest.mark.parametrize(
    ("variant", "named"), [("DAT", "DAttentionBaseline (grid_sample)"), ("DLKA", "DLKA (grid_sample)"), ("CBAM", "")]
)
def test_what_is_not_deterministic_is_said_at_the_start(caplog, variant, named):
    model = network(variant)
    caplog.clear()  # of what the build says
    with caplog.at_level("WARNING", "yolo"):
        warn_of_nondeterminism(model, torch.device("cpu"))
        assert not caplog.messages
        warn_of_nondeterminism(model, torch.device("cuda"))
    assert [named in message and message.count("(") == 1 for message in caplog.messages] == ([True] if named else [])
