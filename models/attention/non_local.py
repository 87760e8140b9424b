"""NonLocal: every position adds the features of all positions, weighted by similarity.

Paper: Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018,
https://arxiv.org/abs/1711.07971, equations 1, 3 and 6 (the embedded Gaussian) and section 4.1.

    f(i, j) = exp(theta(x_i) . phi(x_j))       theta, phi, g: 1x1 convolutions to C / 2 channels
    y_i     = sum over j of f(i, j) g(x_j) / sum over j of f(i, j)
    z_i     = BN(W_z y_i) + x_i                the scale of BN starts at zero: the block starts as the identity

How ours differs from the circulating copies: the four convolutions have no biases (softmax ignores
that of phi, BN takes away that of W_z), and there is no 1/sqrt(C/2) unless `use_scale` asks for it, as
in the paper. `sub_sample` is the paper's pooling of phi and g by 2, on maps of any size.

Exact short cut: the N x N weights are torch's fused attention and are not held.
"""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from models.attention.ops.numerics import reduced_width, require_flag, require_positive
from models.attention.ops.softmax_attention import attend, to_map, to_tokens
from models.identity_start import ZeroInitResidual
from models.layers import Conv
from models.recording import record_softmax
from models.registry import register


@register(cost="quadratic", shows=("attention",))
class NonLocal(ZeroInitResidual):
    """Non-local block with a residual: (B, in_channels, H, W) to the same shape, any H and W.

    The embeddings have in_channels / reduction channels.

    Args:
        in_channels: Channels of the map.
        reduction: Ratio of channels to the width of the embeddings.
        use_scale: Whether logits are divided by the root of that width.
        sub_sample: Whether keys and values are max-pooled by 2.
    """

    gate_parameter = "z.bn.weight"
    heads = 1  # N x N attention maps

    def __init__(self, in_channels: int, reduction: int = 2, use_scale: bool = False, sub_sample: bool = False) -> None:
        super().__init__()
        require_positive("NonLocal", in_channels=in_channels, reduction=reduction)
        require_flag("NonLocal", use_scale=use_scale, sub_sample=sub_sample)
        hidden = reduced_width(in_channels, reduction)
        self.scale = hidden**-0.5 if use_scale else 1.0
        self.sub_sample = sub_sample
        self.theta = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.phi = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.g = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.z = Conv(hidden, in_channels, act=False)
        nn.init.zeros_(self.z.get_parameter("bn.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Return z for the map `x` (B, in_channels, H, W)."""
        key, value = self.phi(x), self.g(x)
        if self.sub_sample:
            key, value = (max_pool2d(each, 2, ceil_mode=True) for each in (key, value))
        tokens = [to_tokens(maps) for maps in (self.theta(x), key, value)]
        label, grid = "embedded Gaussian f / C(x)", key.shape[2:]
        record_softmax(self, label, tokens[0], tokens[1], x.shape[2:], self.scale, grid=grid)
        attended = attend(*tokens, scale=self.scale)
        return x + self.z(to_map(attended, x.shape[-2:]))
