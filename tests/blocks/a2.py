"""A2."""

from blocks import BlockCase, Oracle
from blocks.double_attention import rebuilt_double_attention, slow_double_attention
from models.attention.a2 import A2


def slow_a2(block, x):
    return x + slow_double_attention(block, x)


def rebuilt_a2(block, x, records):
    return x + rebuilt_double_attention(block, x, records)


GATED = "W_R starts at zero"
CASES = {
    "A2": BlockCase(
        oracles={
            "quarters": Oracle(lambda: A2(16), slow_a2, 16),
            "widths of its own": Oracle(lambda: A2(8, 6, 5), slow_a2, 8),
        },
        counts={128: 16_608, **{channels: channels**2 + 7 * channels // 4 for channels in (64, 512, 1024)}},
        delayed={f"{conv}.{kind}": GATED for conv in ("convA", "convB", "convV") for kind in ("weight", "bias")},
        flat={"convB.bias": "a softmax over positions ignores it; kept for the published count"},
        rebuilt=rebuilt_a2,
        refused={(32, 0): "A2: c_m", (32, 8, 0): "A2: c_n"},
    )
}
