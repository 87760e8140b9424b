"""Sea_Attention: squeeze-enhanced axial attention, along the rows and along the columns, with a detail branch.

Paper: Wan, Huang, Lu, Yu, Zhang, "SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation",
ICLR 2023, https://arxiv.org/abs/2301.13156, section 3.2.

    q, k, v = BN(W_q x), BN(W_k x), BN(W_v x)         h heads of d_k, d_k and d_v = attn_ratio d_k
    rows:     q^r, k^r, v^r = means over the columns, q^r and k^r plus a position e interpolated to H
              r_i = sum over rows j of softmax over j of (q^r_i . k^r_j / sqrt(d_k)) times v^r_j
    columns:  c, likewise
    gate    = h-sigmoid(BN(W_p act(v + BN(W_r act(r)) + BN(W_c act(c)))))
    detail  = BN(W_d act(BN(DW_3x3([q, k, v]))))
    y       = gate * detail

The attention costs H^2 + W^2. The names are those of the published code.

How ours differs from the circulating copies: `activation` has a default (theirs, None, is called and fails). Theirs
starts the norms of W_r, W_c and W_p at zero; ours that of W_p only: the gate starts at a half as in theirs, and no
parameter is hidden behind two consecutive zeros. The number of heads follows the
width unless it is given. Positions are interpolated by a product whose gradient is reproducible.
"""

import torch
from torch import Tensor, cat, nn
from torch.nn.functional import relu6

from models.arguments import WIDTH, RowForm, choice_kind
from models.attention.ops.numerics import require_choice, require_positive
from models.attention.ops.positions import interpolate
from models.attention.ops.softmax_attention import attend
from models.layers import fold_norm
from models.norms import BatchNorm
from models.recording import is_recording, record, softmax_weights
from models.registry import register

POSITIONS = 16  # length of the position tables, as published
ACTIVATIONS = ("ReLU6", "ReLU", "SiLU", "GELU", "Hardswish")


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the result.
        kernel: Odd.
        groups: Of the convolution.
        start: Value at which the norm's weight starts.
    """

    bn: nn.BatchNorm2d | None

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, groups: int = 1, start: float = 1.0) -> None:
        super().__init__()
        self.c = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = BatchNorm(c_out)
        nn.init.constant_(self.bn.weight, start)

    def forward(self, x: Tensor) -> Tensor:
        features = self.c(x)
        return features if self.bn is None else self.bn(features)

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch norm into the convolution, once."""
        if self.bn is not None:
            self.c, self.bn = fold_norm(self.c, self.bn), None


class Position(nn.Module):
    """A position vector per cell of an axis, interpolated linearly to the axis' length."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, channels, POSITIONS))

    def forward(self, line: Tensor) -> Tensor:
        """Return `line` (B, C, L) plus the positions."""
        return line + interpolate(self.pos_embed, line.shape[2]).to(line.dtype)


@register(
    form=RowForm(
        kinds={
            "key_dim": WIDTH,
            "activation": choice_kind("activation", ("ReLU6", "ReLU", "SiLU", "GELU", "Hardswish")),
        }
    ),
    shows=("attention", "gate"),
)
class Sea_Attention(nn.Module):  # noqa: N801 - the published name
    """Squeeze-enhanced axial attention, no residual: (B, dim, H, W) to the same shape, any H and W.

    `num_heads` is by default as many heads of `key_dim` as the channels hold, 1 to 8; `activation` is the name of a
    torch.nn activation (ReLU6, ReLU, SiLU, GELU, Hardswish), or its class.

    Args:
        dim: Channels of the map.
        key_dim: Channels of a head's queries and keys.
        num_heads: Attention heads.
        attn_ratio: Ratio of a head's value channels to `key_dim`.
        activation: Between the convolutions.
    """

    def __init__(
        self,
        dim: int,
        key_dim: int = 16,
        num_heads: int | None = None,
        attn_ratio: int = 2,
        activation: str | type[nn.Module] = "ReLU6",
    ) -> None:
        super().__init__()
        require_positive("Sea_Attention", dim=dim, key_dim=key_dim, attn_ratio=attn_ratio)
        heads = min(8, max(1, dim // key_dim)) if num_heads is None else num_heads
        require_positive("Sea_Attention", num_heads=heads)
        name = activation if isinstance(activation, str) else getattr(activation, "__name__", activation)
        require_choice("Sea_Attention", "activation", name, ACTIVATIONS)
        act = getattr(nn, str(name))
        keys, values = heads * key_dim, heads * key_dim * attn_ratio
        self.num_heads, self.scale = heads, key_dim**-0.5
        self.to_q, self.to_k, self.to_v = ConvNorm(dim, keys), ConvNorm(dim, keys), ConvNorm(dim, values)
        self.proj = nn.Sequential(act(), ConvNorm(values, dim, start=0.0))
        self.proj_encode_row = nn.Sequential(act(), ConvNorm(values, values))
        self.pos_emb_rowq, self.pos_emb_rowk = Position(keys), Position(keys)
        self.proj_encode_column = nn.Sequential(act(), ConvNorm(values, values))
        self.pos_emb_columnq, self.pos_emb_columnk = Position(keys), Position(keys)
        both = 2 * keys + values
        self.dwconv, self.act, self.pwconv = ConvNorm(both, both, 3, groups=both), act(), ConvNorm(both, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return gate * detail of the map `x` (B, dim, H, W)."""
        query, key, value = self.to_q(x), self.to_k(x), self.to_v(x)
        detail = self.pwconv(self.act(self.dwconv(cat((query, key, value), dim=1))))
        rows = self._attend(self.pos_emb_rowq(query.mean(3)), self.pos_emb_rowk(key.mean(3)), value.mean(3), "rows")
        columns = self._attend(
            self.pos_emb_columnq(query.mean(2)), self.pos_emb_columnk(key.mean(2)), value.mean(2), "columns"
        )
        axial = self.proj_encode_row(rows.unsqueeze(3)) + self.proj_encode_column(columns.unsqueeze(2))
        gate = relu6(self.proj(value + axial) + 3) / 6
        record(self, "gate", "gate of the detail branch", gate, x.shape[2:])
        return gate * detail

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, axis: str) -> Tensor:
        """Return attention along an axis: (B, h d_k, L), (B, h d_k, L), (B, h d_v, L) to (B, h d_v, L)."""
        heads = (self.num_heads, -1)
        tokens = [line.unflatten(1, heads).transpose(2, 3) for line in (query, key, value)]  # (B, h, L, d)
        if is_recording():
            size = (query.shape[2], 1) if axis == "rows" else (1, query.shape[2])
            weights = softmax_weights(tokens[0], tokens[1], self.scale)
            record(self, "attention", f"axial attention of {axis}", weights, size)
        return attend(*tokens, scale=self.scale).transpose(2, 3).flatten(1, 2)
