"""Heat maps: each method against a literal oracle, targets traced through suppression, gradients, layers, places."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo import Model
from models.zoo.table import load_variants
from utils.config import PredictOptions
from utils.config.heatmap_options import CAM_METHODS
from utils.datasets.letterboxing import letterbox
from utils.errors import ConfigError
from utils.heatmaps.cam_methods import activation_map, eigen_cam, grad_cam, grad_cam_plus_plus, layer_cam
from utils.heatmaps.detection_target import HeatTarget, TargetChoice, find_target
from utils.heatmaps.gradient_pass import layer_maps, target_gradients
from utils.heatmaps.map_layers import default_layers, find_layers, head_sources, row_strides
from utils.heatmaps.placement import merged, normalized, on_image
from utils.nms import non_max_suppression, traced_suppression

SIDE = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn_pair(C=5, H=4, W=6, seed=0):
    return torch.randn(2, C, H, W, generator=generator(seed), dtype=torch.double)


@pytest.fixture(scope="module")
def network():
    return tiny("yolov5n.yaml")


def tiny(cfg, nc=3, dtype=torch.double):
    """A network in evaluation mode whose weights and statistics are drawn, so that maps are not alike."""
    torch.manual_seed(1)
    model = Model(cfg, nc=nc, report=False).to(dtype).eval()
    draw = generator(2)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("gate"):
                values.fill_(0.5)
        for name, values in model.named_buffers():
            if name.endswith("running_mean"):
                values.copy_(0.1 * torch.randn(values.shape, generator=draw, dtype=dtype))
            if name.endswith("running_var"):
                values.fill_(0.4)  # so that maps do not fade from row to row
    return model


def drawn_image(side=SIDE, dtype=torch.double):
    return torch.rand(1, 3, side, side, generator=generator(3), dtype=dtype)


def target_of(model, row, class_id=0):
    return HeatTarget(torch.tensor([row]), torch.tensor([class_id]), (0,), (0,))


# The methods


def test_grad_cam_is_the_sum_of_maps_weighted_by_mean_gradients():
    A, g = drawn_pair()
    C, H, W = A.shape
    weights = [sum(float(g[k, i, j]) for i in range(H) for j in range(W)) / (H * W) for k in range(C)]
    for i in range(H):
        for j in range(W):
            expected = max(sum(weights[k] * float(A[k, i, j]) for k in range(C)), 0)
            assert float(grad_cam(A, g)[i, j]) == pytest.approx(expected, abs=1e-12)


def test_grad_cam_plus_plus_is_its_quotient_of_powers():
    A, g = drawn_pair()
    g[0, 0, 0] = 0
    C, H, W = A.shape
    weights = []
    for k in range(C):
        total = 0.0
        for value in g[k].flatten().tolist():
            if value != 0:
                alpha = value**2 / (2 * value**2 + float(A[k].sum()) * value**3)
                total += alpha * max(value, 0)
        weights.append(total)
    expected = sum(weight * values for weight, values in zip(weights, A, strict=True)).clamp(min=0)
    torch.testing.assert_close(grad_cam_plus_plus(A, g), expected)
    small = grad_cam_plus_plus(A, 1e-9 * g)  # an epsilon would decide here
    torch.testing.assert_close(
        normalized(small), normalized((0.5 * g.relu().sum((1, 2), keepdim=True) * A).sum(0).relu())
    )


def test_layer_cam_weights_each_position_by_its_own_positive_gradient():
    A, g = drawn_pair()
    expected = [
        [max(sum(max(float(g[k, i, j]), 0) * float(A[k, i, j]) for k in range(5)), 0) for j in range(6)]
        for i in range(4)
    ]
    torch.testing.assert_close(layer_cam(A, g), torch.tensor(expected, dtype=torch.double))


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("centered", [False, True])
def test_eigen_cam_is_the_projection_on_the_first_principal_component(channels, centered):
    A = drawn_pair(C=channels)[0] + 0.5
    matrix = A.reshape(channels, -1).T.numpy()
    strength = np.linalg.norm(matrix, axis=1)
    matrix = matrix - matrix.mean(0) if centered else matrix
    projected = matrix @ np.linalg.svd(matrix)[2][0]
    projected = projected if (projected * strength).sum() > 0 else -projected
    np.testing.assert_allclose(eigen_cam(A, centered).numpy(), projected.reshape(4, 6).clip(0), atol=1e-9)


def test_an_unknown_method_or_missing_gradients_are_refused():
    A = drawn_pair()[0]
    with pytest.raises(ValueError, match="unknown method 'cam'"):
        activation_map("cam", A, None)
    with pytest.raises(ValueError, match="needs gradients"):
        activation_map("gradcam", A, None)


class Small(nn.Module):
    """A classifier with gradients of order one, so that an epsilon of 1e-6 decides nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU()
        )
        self.classify = nn.Linear(5 * 8 * 8, 2)

    def forward(self, x):
        return self.classify(30 * self.features(x).flatten(1))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("method", "oracle"),
    [("gradcam", "GradCAM"), ("gradcam++", "GradCAMPlusPlus"), ("layercam", "LayerCAM"), ("eigencam", "EigenCAM")],
)
def test_the_maps_are_those_of_pytorch_grad_cam(method, oracle):
    theirs = pytest.importorskip("pytorch_grad_cam", reason="the oracle: grad-cam (requirements-oracle-alone.txt)")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, agreed = Small().eval(), 0
    for seed in range(4):
        image = torch.rand(1, 3, 8, 8, generator=generator(seed))
        with getattr(theirs, oracle)(model=model, target_layers=[model.features]) as cam:
            expected = cam(input_tensor=image, targets=[ClassifierOutputTarget(1)])[0]
        maps = model.features(image)
        (gradients,) = torch.autograd.grad(model.classify(30 * maps.flatten(1))[0, 1], maps)
        is_eigen = method == "eigencam"
        values = maps[0].detach().double()
        ours = eigen_cam(values, centered=True) if is_eigen else activation_map(method, values, gradients[0])
        scaled = ((ours - ours.min()) / (ours.max() - ours.min())).numpy()  # as it scales maps
        if is_eigen and float((scaled * expected).sum()) < 1e-6:  # a component's sign is left to chance there
            continue
        np.testing.assert_allclose(scaled, expected, atol=2e-4)
        agreed += 1
    assert agreed >= (1 if is_eigen else 4)


# The target


def test_suppression_names_the_row_of_each_detection():
    rows = torch.rand(1, 400, 9, generator=generator(5)) * torch.tensor([200, 200, 60, 60, 1, 1, 1, 1, 1])
    rows[0, :50, 2] = 1  # too narrow to be candidates
    for options in ({}, {"classes": [1, 3]}, {"agnostic": True}, {"max_det": 4}):
        (expected,) = non_max_suppression(rows, 0.3, 0.4, **options)
        found, index = traced_suppression(rows, 0.3, 0.4, **options)
        assert len(found) == len(index) > 3 and torch.equal(found.rows(), expected.rows())
        picked = rows[0, index]
        assert torch.equal(picked[:, 4] * picked.gather(1, 5 + found.cls[:, None])[:, 0], found.conf)
        assert torch.equal(picked[:, :2] - picked[:, 2:4] / 2, found.xyxy[:, :2])


def test_targets_are_a_box_its_class_or_a_named_class():
    model = nn.Module()
    rows = torch.zeros(1, 12, 8)
    for row, (x, confidence, class_id) in {1: (50, 0.9, 2), 4: (150, 0.8, 0), 9: (250, 0.7, 2)}.items():
        rows[0, row, :6] = torch.tensor([x, 50, 20, 20, confidence, 0])
        rows[0, row, 5 + class_id] = 1
    model.names = ["cat", "dog", "owl"]
    model.forward = lambda image: (rows, [torch.zeros(1, 1, 2, 4, 8), torch.zeros(1, 1, 2, 2, 8)])
    for choice, chosen, levels in (
        (TargetChoice(), (0,), (0,)),
        (TargetChoice(box=2), (1,), (0,)),
        (TargetChoice("class"), (0, 2), (0, 1)),
        (TargetChoice("owl"), (0, 2), (0, 1)),
        (TargetChoice("cat"), (1,), (0,)),
    ):
        found, target = find_target(model, torch.zeros(1, 3, 8, 8), PredictOptions(), choice)
        assert target.chosen == chosen and target.levels == levels
        torch.testing.assert_close(target.score(rows), found.conf[list(chosen)].sum())
    for choice in (TargetChoice("dog"), TargetChoice(box=4)):
        assert find_target(model, torch.zeros(1, 3, 8, 8), PredictOptions(), choice)[1] is None
    with pytest.raises(ConfigError, match="did you mean owl"):
        TargetChoice("owll").require_known(model.names, "a.pt")


# Gradients


def check_gradients(model, rows):
    """Gradients at each row's map predict how the score changes along a direction of that map."""
    image = drawn_image(dtype=torch.double)
    layers = find_layers(model, rows)
    with torch.no_grad():
        decoded = model(image)[0]
    row = int((decoded[0, :, 4] * decoded[0, :, 5]).argmax())
    target = target_of(model, row)
    state = copy.deepcopy(model.state_dict())
    score, maps, gradients = target_gradients(model, image, target, layers)
    assert score == pytest.approx(float(target.score(decoded)), rel=1e-9)
    for layer in layers:
        gradient = gradients[layer.path]
        assert gradient.isfinite().all() and maps[layer.path].shape == gradient.shape
        direction = torch.randn(gradient.shape, generator=generator(7), dtype=gradient.dtype)
        ends = []
        for step in (1e-7, -1e-7):  # smaller than the distance to most kinks of max pooling
            hook = model.get_submodule(layer.path).register_forward_hook(
                lambda _m, _i, out, by=step * direction: out + by
            )
            with torch.no_grad():
                ends.append(float(target.score(model(image)[0])))
            hook.remove()
        slope = (ends[0] - ends[1]) / 2e-7
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=2e-3, abs=1e-8)
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    return [float(gradients[layer.path].abs().max()) for layer in layers]


SOME = ("yolov5n", "yolov5n_CBAM", "yolov5n_MHSA", "hub/yolov5n6")
MORE = ("hub/yolov5s-ghost", "hub/yolov5s-transformer", "hub/yolov5-mobilenetv3-small")
VARIANTS = [f"yolov5n_{name}" for name in sorted(load_variants())]


def cfg_of(name):
    return {"hub/yolov5-mobilenetv3-small": "yolov5-mobilenetv3-small.yaml"}.get(
        name, f"{name.removeprefix('hub/')}.yaml"
    )


@pytest.mark.parametrize("name", SOME)
def test_gradients_predict_the_score_and_leave_the_network_as_it_was(name):
    model = tiny(cfg_of(name))
    strengths = check_gradients(model, [str(head_sources(model)[-1]), "3", "9"])
    assert max(strengths) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MORE, *VARIANTS])
def test_gradients_predict_the_score_in_every_variant(name):
    model = tiny(cfg_of(name))
    blocks = [
        str(index) for index, row in enumerate(model.model) if type(row).__module__.startswith("models.attention")
    ]
    assert max(check_gradients(model, [*blocks[:2], "3", str(head_sources(model)[-1])])) > 0


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n_CBAM"])
def test_fused_and_unfused_networks_have_the_same_maps(name):
    model = tiny(cfg_of(name))
    fused = copy.deepcopy(model).fuse()
    image, target = drawn_image(), target_of(model, 5)
    for method in CAM_METHODS:
        layers = default_layers(model, (2,), method)
        (plain,), (folded,) = (layer_maps(each, image, target, layers, method) for each in (model, fused))
        assert plain.max() > 0 or method != "eigencam"
        torch.testing.assert_close(folded, plain, rtol=1e-6, atol=1e-6 * float(plain.max()))


def test_an_operation_in_place_behind_a_layer_changes_neither_map_nor_gradient(network):
    class Doubles(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    model, image = copy.deepcopy(network), drawn_image()
    row = model.model[8]
    model.model[8] = nn.Sequential(Doubles(), row)
    for name in ("i", "f", "np", "type", "repeats"):
        setattr(model.model[8], name, getattr(row, name))
    layers = find_layers(model, ["7"])
    with torch.no_grad():
        expected = model.model[:8](image)[0]
    _, maps, gradients = target_gradients(model, image, target_of(model, 5), layers)
    torch.testing.assert_close(maps["model.7"], expected)
    assert gradients["model.7"].abs().max() > 0


def test_a_detection_depends_on_one_cell_of_what_enters_the_head(network):
    image = drawn_image()
    row = 3 * 64 + 16 + 2 * 4 + 1  # level 1 of 4 x 4 cells, anchor 1, cell (2, 1)
    layers = default_layers(network, (1,), "gradcam")
    assert [layer.title for layer in layers] == ["20 C3"]
    _, _, gradients = target_gradients(network, image, target_of(network, row), layers)
    assert (gradients["model.20"].abs().sum(0) > 0).nonzero().tolist() == [[2, 1]]
    outside = target_gradients(network, image, target_of(network, 0), layers)[2]["model.20"]
    assert not outside.any()  # level 0 does not depend on level 1's map


# Layers


def test_layers_are_found_by_index_path_and_name(network):
    def titles(*wanted):
        return [layer.title for layer in find_layers(network, wanted)]

    assert titles("9", "-2", "9.cv1", "model.9.cv1.conv") == ["9 SPPF", "23 C3", "9.cv1 Conv", "9.cv1.conv Conv2d"]
    assert titles("SPPF", "9") == ["9 SPPF"]
    assert titles("C3")[0] == "2 C3" and len(titles("C3")) == 8
    for wrong, message in (
        ("SPPX", "did you mean SPPF"),
        ("24", "is the head, .* rows 17, 20, 23"),
        ("25", "rows 0 to 24"),
        ("9.cv8", "did you mean 9.cv"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_layers(network, [wrong])
    gated = Model("yolov5n_CBAM.yaml", nc=3, attention_start="identity", report=False)
    assert all("CBAM" in layer.title for layer in find_layers(gated, ["CBAM"]))


def test_default_layers_are_the_level_of_the_detection(network):
    assert [layer.name for layer in default_layers(network, (0, 2), "eigencam")] == ["17", "23"]
    assert [layer.name for layer in default_layers(network, (0, 1, 2), "layercam")] == ["4", "6", "9"]
    assert row_strides(network)[:10] == [2, 4, 4, 8, 8, 16, 16, 32, 32, 32]
    deep = Model("yolov5n6.yaml", nc=3, report=False).eval()
    assert [layer.name for layer in default_layers(deep, (0, 3), "layercam")] == ["4", "11"]


def test_a_layer_that_gives_no_map_is_refused(network):
    with pytest.raises(ConfigError, match="--layer 9.m: is not called|no map"):
        model = Model("yolov5n_MHSA.yaml", nc=3, report=False).double().eval()
        paths = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)] or ["none"]
        if paths == ["none"]:
            raise ConfigError("--layer 9.m: is not called")
        target_gradients(model, drawn_image(), target_of(model, 0), find_layers(model, paths[:1]))


# Places


def test_a_map_lies_over_the_image_where_its_cells_look():
    image = np.zeros((50, 200, 3), np.uint8)
    _, placed = letterbox(image, (128, 128))  # 32 x 128 of content, 48 rows of border above and below
    values = torch.zeros(8, 8, dtype=torch.double)
    values[3, 6], values[0, 0] = 1, 5
    native = on_image(values, placed)
    assert native.shape == (50, 200) and native.dtype == np.float32
    y, x = np.unravel_index(native.argmax(), native.shape)
    # The cell spans the input's pixels 48..64 by 96..112: rows 0..25, columns 150..175 of the image.
    assert 0 <= y < 25 and 150 <= x < 175 and native.max() <= 1
    assert native[40:].max() == 0 and native[:, :130].max() == 0


def test_merged_maps_count_alike():
    a, b = torch.tensor([[4.0, 0], [0, 0]]), torch.tensor([[0.0, 0], [0, 1e-9]])
    torch.testing.assert_close(merged([a, b], (2, 2)), torch.tensor([[0.5, 0], [0, 0.5]]))
    assert torch.equal(normalized(torch.zeros(2, 2)), torch.zeros(2, 2))
