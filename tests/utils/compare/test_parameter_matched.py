"""The parameter-matched baseline: its width compared with every other width, its outputs with the baseline's."""

import math

import pytest
import torch
import yaml

from models.yolo import Model
from utils.checkpoint import checkpoint_of, read_checkpoint, write_checkpoint
from utils.compare import parameter_matched as matching
from utils.errors import ModelError
from utils.files import ROOT

BASE = (ROOT / "models" / "yolov5n.yaml").read_text()


def content(width: float = 0.25) -> dict:
    return {**yaml.safe_load(BASE), "nc": 4, "width_multiple": width}


def test_parameters_are_those_of_the_built_model():
    for name, start in (("yolov5n", ""), ("yolov5n_CBAM", "identity"), ("yolov5n_CoTA", "")):
        yaml_content = yaml.safe_load((ROOT / "models" / f"{name}.yaml").read_text())
        built = Model(yaml_content, nc=3, attention_start=start or None)
        assert matching.count_parameters(yaml_content, 3, start) == sum(each.numel() for each in built.parameters())


def test_the_nearest_of_all_widths_is_found():
    """Oracle: every width at which a layer widens, one by one."""
    channels = {64, 128, 256, 512, 1024}
    every = sorted(
        {0.25} | {8 * count / each for each in channels for count in range(1, each) if 0.25 < 8 * count / each <= 0.5}
    )
    parameters = {width: matching.count_parameters(content(width), 4) for width in every[::9]}
    by_hand = every[::9]
    for target in (1_770_000, 2_000_000, 2_600_000, 4_000_000):
        nearest = min(by_hand, key=lambda width: abs(parameters[width] - target))
        assert matching.nearest_width(by_hand, parameters.__getitem__, target) == nearest
    staircase = {width: int(1e4 * width**2) for width in (0.25 + 0.01 * step for step in range(40))}
    for target in range(500, 5000, 37):
        nearest = min(abs(count - target) for count in staircase.values())
        assert (
            abs(staircase[matching.nearest_width(list(staircase), staircase.__getitem__, target)] - target) == nearest
        )
    assert set(every) <= {0.25, *matching._width_steps(sorted(channels), 0.25)}


def test_it_has_the_depth_of_the_baseline_and_the_parameters_of_the_largest_variant():
    found = matching.match_parameters(BASE, "yolov5n.yaml", {"small": 1_780_000, "big": 2_491_889}, 4)
    wide, base = Model(yaml.safe_load(found.text), nc=4), Model(content())
    count = sum(each.numel() for each in wide.parameters())
    assert found.largest == "big" and count == found.parameters and abs(count / 2_491_889 - 1) < 0.02
    assert [type(layer) for layer in wide.model] == [type(layer) for layer in base.model]
    assert [layer.repeats for layer in wide.model] == [layer.repeats for layer in base.model]
    widths = [part.out_channels for part in wide.model[:9].modules() if isinstance(part, torch.nn.Conv2d)]
    assert all(width % 4 == 0 for width in widths)  # C3 halves its multiple of 8
    assert "+1.0%" in found.sentence() or "%" in found.sentence() and "2,491,889" in found.sentence()


def test_there_is_none_if_the_baseline_is_nearest():
    parameters = matching.count_parameters(content(), 4)
    assert matching.match_parameters(BASE, "yolov5n.yaml", {"a": parameters + 7000}, 4) is None
    assert matching.match_parameters(BASE, "yolov5n.yaml", {"a": parameters - 300_000}, 4) is None


def test_a_width_is_never_a_step_too_wide():
    for channels in (48, 72, 96, 100, 1000):
        for count in range(1, 60):
            assert math.ceil(channels * matching._largest_width(channels, count) / 8) == count


def randomized(model):
    """Return the model with weights and statistics as no fresh model has them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                for tensor in (part.weight, part.running_var):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
                for tensor in (part.bias, part.running_mean):
                    tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    "name, widths", [("models/yolov5n.yaml", (0.25, 0.296875)), ("models/hub/yolov5s6.yaml", (0.125, 0.15625))]
)
def test_a_widened_network_computes_what_the_narrow_one_does(name, widths):
    description = {**yaml.safe_load((ROOT / name).read_text()), "nc": 4, "depth_multiple": 0.33}
    narrow, wide = (Model({**description, "width_multiple": width}).double() for width in widths)
    randomized(narrow)
    fresh = sum(each.abs().sum() for each in wide.parameters())
    matching.widen(narrow, wide)
    image = torch.rand(2, 3, 128, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for one, other in zip(narrow.eval()(image)[1], wide.eval()(image)[1], strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-9) and one.std() > 1e-3
    for one, other in zip(
        narrow.train()(image), wide.train()(image), strict=True
    ):  # batch statistics are a channel's own
        assert torch.allclose(one, other, rtol=0, atol=1e-9)
    assert sum(each.abs().sum() for each in wide.parameters()) > 0.2 * fresh  # new channels are there, at random
    first, second = wide.model[0].conv.weight, wide.model[1].conv.weight
    old = narrow.model[0].conv.weight.shape[0]
    assert first[old:].abs().min() > 0 and not second[: narrow.model[1].conv.weight.shape[0], old:].any()


def test_new_channels_get_gradients():
    """After one step the old channels read the new ones."""
    narrow, wide = Model(content()), Model(content(0.296875))
    matching.widen(narrow, wide)
    loss = sum(raw.pow(2).mean() for raw in wide.train()(torch.rand(2, 3, 64, 64)))
    loss.backward()
    old = narrow.model[1].conv.weight.shape[:2]
    assert wide.model[1].conv.weight.grad[: old[0], old[1] :].abs().max() > 0


def test_what_cannot_be_followed_is_refused():
    attention = yaml.safe_load((ROOT / "models" / "yolov5n_CBAM.yaml").read_text())
    with pytest.raises(ModelError):
        matching.widen(Model(attention), Model({**attention, "width_multiple": 0.3125}))


def test_the_initial_weights_hold_all_of_the_checkpoint(tmp_path):
    trained = randomized(Model(content()))
    trained.names = list("abcd")
    weights = write_checkpoint(checkpoint_of(trained), tmp_path / "w.pt")
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(content(0.296875)))
    state = torch.random.get_rng_state()
    files = [
        matching.write_initial_weights(
            tmp_path / "base.yaml", tmp_path / "wide.yaml", weights, seed, tmp_path / f"{index}.pt"
        )
        for index, seed in enumerate((0, 0, 1))
    ]
    one, same, other = (read_checkpoint(file) for file in files)
    assert torch.equal(state, torch.random.get_rng_state()) and one.names == list("abcd")
    wide = Model(one.yaml)
    wide.load_state_dict(one.state)
    wide, trained, image = wide.double(), trained.double(), torch.rand(1, 3, 64, 64, dtype=torch.float64)
    assert torch.allclose(wide.eval()(image)[0], trained.eval()(image)[0], rtol=1e-9, atol=1e-9)
    # drawn from one seed or copied, not computed
    assert all(torch.equal(one.state[key], same.state[key]) for key in one.state)
    assert any(not torch.equal(one.state[key], other.state[key]) for key in one.state)
