"""CoT: the contextual transformer layer of the paper, which weights the neighbors of each position.

Paper: Li, Yao, Pan, Mei, "Contextual Transformer Networks for Visual Recognition",
https://arxiv.org/abs/2107.12292, section 3.2 and figure 2b, with the authors' details of the layer.

    K1 = ReLU(BN(Conv_kxk,groups=4(x)))                     static context
    V  = BN(Conv_1x1(x))                                    values
    A  = GN(Conv_1x1(ReLU(BN(Conv_1x1([x, K1])))))          k*k weights per position and 8 channels, no softmax
    K2 = SiLU(BN(sum over the neighbors o of A(p, o) V(p + o)))   dynamic context, zeros outside the map
    s  = softmax over {dynamic, static} of W_2 ReLU(BN(W_1 mean over positions(K1 + K2)))   (C, 2)
    y  = s_dynamic K2 + s_static K1

How ours differs from the tutorials' copies, which `CoTAttention` keeps: theirs average the k*k weights, take a
softmax over all positions of the map and multiply, so that no neighbor is ever used and K2 fades as 1 / (H*W);
they add K1 and K2. Here each position has a kernel of its own, as in the paper, normalized over
each group of 8 channels' weights. The batch norm on the mean, which elsewhere fails on one image in training, takes it.
"""

from torch import Tensor, cat, nn

from models.attention.ops.neighbourhood import neighbors, weighted_sum
from models.attention.ops.numerics import require_multiple, require_odd, softmax
from models.layers import Conv
from models.norms import BatchNorm
from models.recording import record
from models.registry import register

GROUPS = 4  # of the context convolution
SHARE = 8  # channels that share a dynamic kernel


@register(shows=("kernels", "branches"))
class CoT(nn.Module):
    """Contextual transformer layer: (B, dim, H, W) to the same shape, any H and W.

    `dim` is a multiple of 8.

    Args:
        dim: Channels of the map.
        kernel_size: Of the static context and of the dynamic kernels, odd.
    """

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        super().__init__()
        require_odd("CoT", "kernel_size", kernel_size)
        require_multiple("CoT", dim, SHARE, "channels per kernel")
        self.kernel_size = kernel_size
        taps, sharing, hidden = kernel_size**2, dim // SHARE, max(dim // 2, 32)
        self.key_embed = Conv(dim, dim, kernel_size, groups=GROUPS, act=nn.ReLU(inplace=True))
        self.value_embed = Conv(dim, dim, act=False)
        self.attention_embed = nn.Sequential(
            Conv(2 * dim, dim // 2, act=nn.ReLU(inplace=True)),
            nn.Conv2d(dim // 2, taps * sharing, 1),
            nn.GroupNorm(sharing, taps * sharing),
        )
        self.bn = BatchNorm(dim)
        self.act = nn.SiLU(inplace=True)
        self.fuse_embed = nn.Sequential(
            nn.Conv2d(dim, hidden, 1), BatchNorm(hidden), nn.ReLU(inplace=True), nn.Conv2d(hidden, 2 * dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return y for the map `x` (B, dim, H, W)."""
        static = self.key_embed(x)
        kernels = self.attention_embed(cat((x, static), dim=1))
        dynamic = self.act(self.bn(self._aggregate(self.value_embed(x), kernels)))
        pooled = (static + dynamic).mean((2, 3), keepdim=True)
        share = softmax(self.fuse_embed(pooled).unflatten(1, (-1, 2)), dim=2)  # (B, dim, 2, 1, 1)
        record(self, "branches", "shares of dynamic K2 and static K1", share.transpose(1, 2), x.shape[2:])
        return share[:, :, 0] * dynamic + share[:, :, 1] * static

    def _aggregate(self, values: Tensor, kernels: Tensor) -> Tensor:
        """Return the neighbors of `values` (B, dim, H, W) weighted by `kernels` (B, dim / 8 * k * k, H, W)."""
        kernels = kernels.unflatten(1, (-1, self.kernel_size**2))  # (B, dim / 8, k * k, H, W)
        record(self, "kernels", "dynamic kernels A", kernels, values.shape[2:])
        near = neighbors(values.unflatten(1, (-1, SHARE)), self.kernel_size)
        return weighted_sum(kernels, near).flatten(1, 2)
