"""What blocks record of themselves: what is shown is what was applied."""

import contextlib
import copy
import dataclasses
import math

import pytest
import torch
from blocks.instances import BLOCKS, CASES, build, image, opened, randomised

from models.attention.area import AreaAttention
from models.attention.cbam import CBAM
from models.identity_start import IdentityStart
from models.recording import KINDS, AppliedAttention, record, record_softmax, recording, softmax_weights, sum_in_cells
from models.registry import find, registered
from models.yolo import Model
from models.zoo.table import load_variants

SIZES = [(2, 3), (7, 5), (8, 12)]
FEW = ("C3CBAM", "CCA", "DAT", "LSKA-Attn")  # in C3 and in a block, two rounds, sampled points
VARIANTS = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in load_variants()]
ORACLES = [(name, word) for name, case in CASES.items() if case.rebuilt for word in case.oracles]


def require_shape(shown, x):
    """Fail unless the values of a record have the shape of their kind."""
    batch, channels, values, size = x.shape[0], x.shape[1], shown.values, tuple(shown.size)
    assert values.isfinite().all()
    if shown.kind == "gate":
        assert values.ndim == 4 and values.shape[0] == batch
        assert all(side in (1, full) for side, full in zip(values.shape[2:], size, strict=True))
    elif shown.kind == "attention":
        keys = math.prod(shown.key_size) if shown.keys is None else shown.keys.shape[1]
        assert values.ndim == 4 and values.shape[0] == batch
        assert values.shape[2:] == (math.prod(size), keys)
        if shown.keys is not None:
            assert shown.keys.shape == values.shape[2:]
            assert shown.keys.min() >= -1 and shown.keys.max() < math.prod(shown.key_size)
    elif shown.kind == "maps":
        assert values.ndim == 4 and values.shape[0] == batch and tuple(values.shape[2:]) == size
    elif shown.kind == "channels":
        assert values.ndim == 4 and values.shape[2] == values.shape[3] <= channels
    elif shown.kind == "branches":
        assert values.ndim == 5 and values.shape[0] == batch
    elif shown.kind == "offsets":
        assert values.ndim == 5 and values.shape[0] == batch and values.shape[2] == 2
        assert tuple(values.shape[3:]) == size
        if shown.places is not None:
            assert shown.places.expand(values.shape[1:]).isfinite().all()
    else:
        assert values.ndim == 5 and tuple(values.shape[3:]) == size
        assert math.isqrt(values.shape[2]) ** 2 == values.shape[2]


@pytest.mark.parametrize(("name", "word"), ORACLES)
@pytest.mark.parametrize("size", SIZES)
def test_what_a_block_shows_gives_its_output(name, word, size):
    oracle = CASES[name].oracles[word]
    block = randomised(oracle.build())
    x = torch.randn(2, oracle.channels, *size, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    with torch.no_grad():
        expected = block(x)
        with recording() as records:
            output = block(x)
        assert torch.equal(output, expected)
        assert {shown.kind for shown in records} <= set(find(name).shows)
        for shown in records:
            require_shape(shown, x)
        rebuilt = CASES[name].rebuilt(block, x, records)
    assert rebuilt.shape == expected.shape
    assert (rebuilt - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1)


def rebuilds(case, block, x, records, expected):
    """Whether records give the block's output; a case may compare two of them itself."""
    try:
        with torch.no_grad():
            rebuilt = case.rebuilt(block, x, records)
    except AssertionError:
        return False
    return bool((rebuilt - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1))


@pytest.mark.parametrize(("name", "word"), ORACLES)
def test_another_record_would_not_give_the_output(name, word):
    """Each record counts: the identity holds for what was recorded and for nothing else."""
    oracle = CASES[name].oracles[word]
    block = randomised(oracle.build())
    noticed = set()
    for seed in range(3):  # behind a ReLU, a change may be lost on one input
        x = torch.randn(2, oracle.channels, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
        with torch.no_grad(), recording() as records:
            expected = block(x)
        for index, shown in enumerate(records):
            changed = [*records]
            changed[index] = dataclasses.replace(shown, values=1.1 * shown.values + 0.01)
            if not rebuilds(CASES[name], block, x, changed, expected):
                noticed.add(index)
    assert noticed == set(range(len(records)))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.rebuilt])
def test_a_block_registers_the_kinds_that_its_oracles_show(name):
    kinds = set()
    for oracle in CASES[name].oracles.values():  # arguments may leave one of them out, such as a gate
        with torch.no_grad(), recording() as records:
            randomised(oracle.build())(torch.ones(1, oracle.channels, 4, 4, dtype=torch.double))
        kinds |= {shown.kind for shown in records}
    assert kinds == set(find(name).shows)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.rebuilt])
def test_a_fused_block_shows_the_same(name):
    oracle = next(iter(CASES[name].oracles.values()))
    block = randomised(oracle.build())
    x = torch.randn(2, oracle.channels, 5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    with torch.no_grad(), recording() as before:
        block(x)
    for module in list(block.modules()):
        if callable(getattr(module, "fuse", None)):
            module.fuse()
    with torch.no_grad(), recording() as after:
        block(x)
    assert [(shown.kind, shown.label) for shown in after] == [(shown.kind, shown.label) for shown in before]
    for fused, shown in zip(after, before, strict=True):
        torch.testing.assert_close(fused.values, shown.values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_says_what_it_shows_and_its_case_rebuilds_its_output_from_that(name):
    assert find(name).shows and set(find(name).shows) <= set(KINDS)
    assert CASES[name].rebuilt is not None


@pytest.mark.parametrize("name", BLOCKS)
def test_a_step_of_training_is_the_same_while_somebody_records(name):
    """Output and gradients: the same operators run on the same numbers, in training mode and under autocast."""
    block, x = opened(build(name)).train(), image(2, 32, 5, 6)
    passes = []
    for shown in (False, True):
        block.zero_grad()
        own, given = copy.deepcopy(block), x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), recording() if shown else contextlib.nullcontext([]) as records:
            output = own(given)
        output.float().square().sum().backward()
        passes.append((output.detach(), given.grad, *(each.grad for each in own.parameters() if each.grad is not None)))
    assert records and not any(shown.values.requires_grad for shown in records)
    assert len(passes[0]) == len(passes[1]) and all(map(torch.equal, *passes))
    for shown in records:
        require_shape(shown, x)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_block_of_a_network_records_what_it_applies_fused_or_not(name):
    torch.manual_seed(0)
    model, x = Model(f"yolov5n_{name}.yaml").eval(), image(2, 3, 64, 96)
    kept = []
    for fused in (False, True):
        if fused:
            model.fuse()
        with torch.no_grad(), recording() as records:
            model(x)
        kept.append(records)
        entries = {entry.cls: entry for entry in registered().values() if entry.shows}
        owners = {shown.block for shown in records}
        assert owners
        for block in (module for module in model.modules() if type(module) in entries):
            entry, parts = entries[type(block)], set(block.modules())
            own = {shown.kind for shown in records if shown.block in parts}
            assert own <= set(entry.shows) and (own or not entry.attention)  # a MobileNetV3Block may have no gate
            owners -= parts
        assert not owners
        for shown in records:
            assert shown.values.isfinite().all() and shown.values.shape[0] == 2
    assert [(shown.kind, shown.label, shown.size) for shown in kept[0]] == [
        (shown.kind, shown.label, shown.size) for shown in kept[1]
    ]
    for before, after in zip(*kept, strict=True):
        torch.testing.assert_close(after.values, before.values, rtol=1e-3, atol=1e-4)


def test_records_nothing_unless_asked_and_one_recording_at_a_time():
    block, x = CBAM(8), torch.rand(1, 8, 3, 3)
    with recording() as records:
        block(x)
        with pytest.raises(RuntimeError, match="open already"), recording():
            pass
    assert [shown.label for shown in records] == ["channel gate M_c", "spatial gate M_s"]
    block(x)
    record(block, "gate", "late", x, (3, 3))
    assert len(records) == 2


def test_the_gate_of_an_identity_start_is_shown_after_the_block_that_it_opens():
    block, x = randomised(IdentityStart(CBAM(8), 8)), torch.rand(2, 8, 3, 4).double()
    with torch.no_grad(), recording() as records:
        output = block(x)
    channel, spatial, opening = (shown.values for shown in records)
    assert records[2].block is block and opening.shape == (2, 8, 1, 1)
    torch.testing.assert_close(x + opening * (x * channel * spatial - x), output)


def test_softmax_weights_are_those_of_the_equation():
    query, key = torch.tensor([[[[1.0, 0], [0, 2]]]]), torch.tensor([[[[1.0, 1], [3, 0]]]])
    scores = [[math.exp(0.5), math.exp(1.5)], [math.exp(1.0), math.exp(0.0)]]
    expected = torch.tensor([[value / sum(row) for value in row] for row in scores])
    torch.testing.assert_close(softmax_weights(query, key, 0.5)[0, 0], expected)
    hidden = torch.tensor([[True, False], [True, True]])
    assert softmax_weights(query, key, 0.5, hidden)[0, 0, 0].tolist() == [1.0, 0.0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(softmax_weights(query, key, 0.3), softmax_weights(query.float(), key.float(), 0.3))
        assert softmax_weights(query.bfloat16(), key.bfloat16()).dtype == torch.float32


def test_keys_of_a_large_map_are_joined_in_cells_whose_weights_are_sums(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 4, count, 6, generator=generator).double() for count in (20, 35))
    bias = torch.randn(1, 4, 20, 35, generator=generator).double()
    with recording() as records:
        record_softmax(CBAM(8), "of the test", query, key, (4, 5), 0.5, bias, (5, 7))
        monkeypatch.setattr("models.recording.MOST_WEIGHTS", 4 * 20 * 12)
        record_softmax(CBAM(8), "of the test", query, key, (4, 5), 0.5, bias, (5, 7))
        record_softmax(CBAM(8), "of the test", query, key, (4, 5), 0.5, bias[:, :, :1], (5, 7))
    assert torch.equal(records[0].values, softmax_weights(query, key, 0.5, bias)) and records[0].grid == (5, 7)
    assert torch.allclose(records[2].values.sum(3), torch.ones(2, 4, 20).double())
    joined, full = records[1], records[0].values.unflatten(3, (5, 7))
    assert joined.size == (4, 5) and joined.grid == (3, 4) and joined.values.shape == (2, 4, 20, 12)
    rows, columns = [[0, 1], [2, 3], [4]], [[0, 1], [2, 3], [4, 5], [6]]
    for cell in range(12):
        expected = full[..., rows[cell // 4], :][..., columns[cell % 4]].sum((3, 4))
        torch.testing.assert_close(joined.values[..., cell], expected)


def test_areas_of_a_large_map_are_recorded_by_cells(monkeypatch):
    block, x = randomised(AreaAttention(8, 2, 3)), image(2, 8, 4, 7).double()
    with torch.no_grad(), recording() as records:
        block(x)
        monkeypatch.setattr("models.recording.MOST_WEIGHTS", 2 * 28 * 8)
        block(x)
    sparse, joined = records
    assert sparse.keys.shape == (28, 10) and joined.keys is None and joined.grid == (2, 4)
    full = torch.zeros(2, 2, 28, 29).double().scatter_add(3, (sparse.keys % 29).expand(2, 2, -1, -1), sparse.values)
    expected = sum_in_cells(full[..., :28].unflatten(3, (4, 7)), (2, 4)).flatten(3)
    torch.testing.assert_close(joined.values, expected)


def test_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="unknown kind 'gates'"):
        AppliedAttention(CBAM(8), "gates", "", torch.zeros(1), (1, 1))
