"""LSKA: large kernel attention whose depth-wise kernels are rows followed by columns.

Paper: Lau, Po, Rehman, "Large Separable Kernel Attention: Rethinking the Large Kernel Attention
Design in CNN", Expert Systems with Applications 2024, https://arxiv.org/abs/2309.01439, section 3.

    z = D_{m x 1} * (D_{1 x m} * x)                     m = 2 d - 1
    z = D_{n x 1},d * (D_{1 x n},d * z)                 n = floor(k / d), dilation d
    a = W z,   y = a * x                                D: depth-wise, W: 1x1 convolution over channels
    LSKA_Attention: y = x + P_2 LSKA(GELU(P_1 x))       P: 1x1 convolutions

The paper's kernels k, with d = 2 up to 11 and d = 3 above: 7, 11, 23, 35, 41, 53. All convolutions
have biases and zeros outside the map; nothing bounds the gate, so LSKA_Attention, which adds to
the input, is the safer one to put into a network.

How ours differs from the circulating copies: another kernel is an error here; theirs builds an object
without layers that fails in its first forward pass. W's bias starts at one instead of zero, so the gate
starts around one and not around zero. State dict and arithmetic are the published ones.
"""

from torch import Tensor, nn
from torch.nn.functional import gelu

from models.arguments import RowForm, choice_kind
from models.attention.ops.numerics import require_choice, require_positive
from models.recording import record
from models.registry import register

DILATIONS = {7: 2, 11: 2, 23: 3, 35: 3, 41: 3, 53: 3}  # of the paper's kernel sizes


@register(form=RowForm(kinds={"k_size": choice_kind("kernel", tuple(DILATIONS))}), shows=("gate",))
class LSKA(nn.Module):
    """Large separable kernel attention, gate times input: (B, dim, H, W) to the same shape.

    `k_size` is 7, 11, 23, 35, 41 or 53.

    Args:
        dim: Channels of the map.
        k_size: Side of the kernel that is decomposed.
    """

    def __init__(self, dim: int, k_size: int = 11) -> None:
        super().__init__()
        require_positive("LSKA", dim=dim)
        require_choice("LSKA", "k_size", k_size, tuple(DILATIONS))
        dilation = DILATIONS[k_size]
        near, far = 2 * dilation - 1, k_size // dilation
        reach = dilation * (far // 2)
        self.conv0h = nn.Conv2d(dim, dim, (1, near), padding=(0, near // 2), groups=dim)
        self.conv0v = nn.Conv2d(dim, dim, (near, 1), padding=(near // 2, 0), groups=dim)
        self.conv_spatial_h = nn.Conv2d(dim, dim, (1, far), padding=(0, reach), dilation=dilation, groups=dim)
        self.conv_spatial_v = nn.Conv2d(dim, dim, (far, 1), padding=(reach, 0), dilation=dilation, groups=dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        nn.init.ones_(self.conv1.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return a * x."""
        near = self.conv0v(self.conv0h(x))
        far = self.conv_spatial_v(self.conv_spatial_h(near))
        gate = self.conv1(far)
        record(self, "gate", "attention a of the large kernel", gate, x.shape[2:])
        return gate * x


@register(form=RowForm(kinds={"k_size": choice_kind("kernel", tuple(DILATIONS))}), shows=("gate",))
class LSKA_Attention(nn.Module):  # noqa: N801 - the registered name
    """LSKA between two 1x1 convolutions, with a residual: (B, d_model, H, W) to the same shape.

    `k_size` is as in LSKA.

    Args:
        d_model: Channels of the map.
        k_size: Side of the kernel that is decomposed.
    """

    def __init__(self, d_model: int, k_size: int = 11) -> None:
        super().__init__()
        require_positive("LSKA_Attention", d_model=d_model)
        self.proj_1 = nn.Conv2d(d_model, d_model, 1)
        self.spatial_gating_unit = LSKA(d_model, k_size)
        self.proj_2 = nn.Conv2d(d_model, d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + P_2 LSKA(GELU(P_1 x))."""
        return x + self.proj_2(self.spatial_gating_unit(gelu(self.proj_1(x))))
