"""Devices: their names, the type of mixed precision, and float32 that is float32."""

import pytest
import torch

from utils import device as devices
from utils.errors import ConfigError

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "amp", "wanted", "dtype"),
    [
        ((6, 1), None, "auto", None),  # float16 without matrix units is slower than float32
        ((6, 1), True, "auto", torch.float16),
        ((6, 1), None, "fp16", torch.float16),
        ((7, 5), None, "auto", torch.float16),
        ((8, 0), None, "auto", torch.float16),
        ((9, 0), None, "bf16", torch.bfloat16),
        ((9, 0), False, "bf16", None),
    ],
)
def test_the_gpu_and_the_flags_decide_the_type(monkeypatch, capability, amp, wanted, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.amp_dtype(CUDA, amp, wanted) is dtype
    assert devices.amp_dtype(CPU, amp, wanted) is None


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(
        ConfigError, match=r"--amp-type bf16: needs compute capability 8\.0, this GPU has 7\.5; use fp16"
    ):
        devices.amp_dtype(CUDA, None, "bf16")


def test_evaluation_computes_without_tf32_and_leaves_the_settings_as_they_were():
    from utils.engine.evaluator import evaluate

    seen = []

    class Watching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images, augment=False):
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            raise InterruptedError

    class Source:
        def epoch(self, number):
            from utils.datasets.dataset import targets
            from utils.types import Batch, Labels, Letterbox

            box = Letterbox((32, 32), (1.0, 1.0), (0, 0), (32, 32))
            yield Batch(
                torch.zeros(1, 3, 32, 32, dtype=torch.uint8), targets([Labels.none()]), ("a.jpg",), (box,), (0,)
            )

        def __len__(self):
            return 1

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(InterruptedError):
        evaluate(Watching(), Source(), ["a"])
    assert seen == [(False, False)]
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    assert before[0]  # torch's default, which would let convolutions compute in TF32


@pytest.mark.parametrize(
    ("dtype", "scale", "growth"),
    [(torch.float16, 65536.0, 2000), (torch.bfloat16, 1.0, 2**31 - 1), (None, 1.0, 2**31 - 1)],
)
def test_only_float16_scales_its_gradients(monkeypatch, dtype, scale, growth):
    from utils.engine.build import gradient_scaler

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    scaler = gradient_scaler(CUDA, dtype)
    assert (scaler.get_scale(), scaler.get_growth_interval()) == (scale, growth)
    assert not gradient_scaler(CPU, None).is_enabled()
