"""LiteMLA: multi-scale linear attention with ReLU as the feature map.

Paper: Cai, Li, Hu, Gan, Han, "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
ICCV 2023, https://arxiv.org/abs/2205.14756, section "Multi-Scale Linear Attention" and figure 2.

    (q, k, v)_0 = W x                                     heads of `dim` channels each
    (q, k, v)_s = grouped 1x1 (DWConv sxs ((q, k, v)_0))  for every s of `scales`: neighboring tokens joined
    y_i         = sum_j v_j (ReLU(k_j) . ReLU(q_i)) / (sum_j ReLU(k_j) . ReLU(q_i) + eps)     per head and scale
    out         = x + BN(W_o [y_0, y_s, ...])

How ours differs from the circulating copies: numerator and denominator are summed in float32 at least, whatever
the type under autocast or of the model, without a row of ones appended to v; heads are as wide as the largest divisor
of the channels up to `dim`; the input is added, as around the module everywhere in the paper.
"""

from collections.abc import Sequence

from torch import Tensor, cat, nn
from torch.nn.functional import relu

from models.arguments import GROUPS, KERNELS, RowForm
from models.attention.ops.linear_attention import linear_attention, record_linear_attention
from models.attention.ops.numerics import lifting_factor, require_number, require_odd_list, resolve_divisor
from models.layers import Conv
from models.recording import is_recording
from models.registry import register


@register(
    form=RowForm(
        kinds={"dim": GROUPS, "scales": KERNELS},
        orders=(("heads",),),
        elsewhere={"heads": "is the number of channels divided by dim"},
    ),
    shows=("attention",),
)
class LiteMLA(nn.Module):
    """Multi-scale linear attention with a residual: (B, in_channels, H, W) to the same shape, any H and W.

    `dim`, the width of a head, divides `in_channels`, by default the largest up to 8 that does; `scales` are odd
    kernels.

    Args:
        in_channels: Channels of the map.
        dim: Channels of a head.
        scales: One depth-wise kernel per further scale.
        eps: What is added to the denominator, above zero.
    """

    def __init__(
        self, in_channels: int, dim: int | None = None, scales: Sequence[int] = (5,), eps: float = 1e-15
    ) -> None:
        super().__init__()
        dim = resolve_divisor("LiteMLA", "dim", dim, in_channels, wanted=8)
        require_odd_list("LiteMLA", "scales", scales, such_as=[3, 5])
        require_number("LiteMLA", "eps", eps, above=0, such_as=1e-15)
        self.dim, self.eps, heads, width = dim, eps, in_channels // dim, 3 * in_channels
        self.qkv = nn.Conv2d(in_channels, width, 1, bias=False)
        self.aggreg = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, scale, padding=scale // 2, groups=width, bias=False),
                nn.Conv2d(width, width, 1, groups=3 * heads, bias=False),
            )
            for scale in scales
        )
        self.proj = Conv(in_channels * (1 + len(scales)), in_channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + BN(W_o [attention at each scale]) of the map `x` (B, in_channels, H, W)."""
        qkv = self.qkv(x)
        scales = cat((qkv, *(aggregate(qkv) for aggregate in self.aggreg)), 1)
        heads = scales.flatten(2).unflatten(1, (-1, 3 * self.dim))  # (B, scales * heads, 3 dim, N)
        query, key, value = heads.split(self.dim, 2)
        positions = heads.shape[-1]  # eps is for sums; linear_attention takes means
        factor = lifting_factor(self.eps)
        query, key, epsilon = relu(query), relu(key), factor * self.eps / positions
        attended = linear_attention(query, key, value, epsilon, factor)
        if is_recording():
            count = len(self.aggreg) + 1
            for index, pair in enumerate(zip(query.chunk(count, 1), key.chunk(count, 1), strict=True)):
                side = self.aggreg[index - 1].get_parameter("0.weight").shape[-1] if index else 1
                label = f"ReLU linear attention, scale {side}x{side}"
                record_linear_attention(self, label, *pair, x.shape[2:], epsilon, factor)
        return x + self.proj(attended.to(qkv.dtype).flatten(1, 2).unflatten(2, x.shape[-2:]))
