"""models/attention/ops/linear_attention.py: the weights that are recorded are those that are applied."""

import torch
from torch import nn

from models.attention.ops import linear_attention as ops
from models.recording import recording

QUERY, KEY, VALUE = torch.rand(3, 2, 4, 6, 35, generator=torch.Generator().manual_seed(0)).double()


def recorded(size=(5, 7)):
    with recording() as records:
        ops.record_linear_attention(nn.Identity(), "of the test", QUERY, KEY, size, 1e-3, 2.0)
    return records[0]


def test_recorded_weights_give_what_is_attended():
    shown = recorded()
    attended = ops.linear_attention(QUERY, KEY, VALUE, 1e-3, 2.0)
    assert shown.values.shape == (2, 4, 35, 35) and shown.key_size == (5, 7)
    torch.testing.assert_close((shown.values @ VALUE.transpose(2, 3)).transpose(2, 3), attended)


def test_keys_of_a_large_map_are_joined_in_cells_whose_weights_are_sums(monkeypatch):
    full = recorded().values.unflatten(3, (5, 7))
    monkeypatch.setattr("models.recording.MOST_WEIGHTS", 4 * 35 * 12)
    shown = recorded()
    assert shown.grid == (3, 4) and shown.values.shape == (2, 4, 35, 12)
    rows, columns = [[0, 1], [2, 3], [4]], [[0, 1], [2, 3], [4, 5], [6]]
    for cell in range(12):
        expected = full[..., rows[cell // 4], :][..., columns[cell % 4]].sum((3, 4))
        torch.testing.assert_close(shown.values[..., cell], expected)


def test_nothing_is_computed_unless_somebody_records(monkeypatch):
    monkeypatch.setattr(ops, "upcast", lambda values: 1 / 0)
    ops.record_linear_attention(nn.Identity(), "of the test", QUERY, KEY, (5, 7), 1e-3)
