"""Layers written out literally, for the oracles."""

import torch
from torch import Tensor, nn

from models.recording import AppliedAttention


def sigmoid(value: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-value))


def silu(value: Tensor) -> Tensor:
    return value / (1 + torch.exp(-value))


def relu(value: Tensor) -> Tensor:
    return value.clamp(min=0)


def hard_sigmoid(value: Tensor) -> Tensor:
    return (value + 3).clamp(0, 6) / 6


def softmax(logits: Tensor, dim: int) -> Tensor:
    weights = torch.exp(logits - logits.amax(dim, keepdim=True))
    return weights / weights.sum(dim, keepdim=True)


def batch_norm(norm: nn.Module, maps: Tensor) -> Tensor:
    """(B, C, ...) by the running statistics."""
    column = (1, -1, *[1] * (maps.ndim - 2))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (maps - norm.running_mean.view(column)) * scale.view(column) + norm.bias.view(column)


def group_norm(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """(B, C, ...) with the mean and spread of each group of channels of each image."""
    groups = maps.reshape(maps.shape[0], norm.num_groups, -1)
    spread = ((groups - groups.mean(2, keepdim=True)) ** 2).mean(2, keepdim=True)
    scaled = ((groups - groups.mean(2, keepdim=True)) / (spread + norm.eps).sqrt()).view(maps.shape)
    column = (1, -1, *[1] * (maps.ndim - 2))
    return scaled * norm.weight.view(column) + norm.bias.view(column) if norm.affine else scaled


def layer_norm(norm: nn.LayerNorm, values: Tensor, dim: int = -1) -> Tensor:
    """Values with the mean and spread along one axis."""
    values = values.movedim(dim, -1)
    centered = values - values.mean(-1, keepdim=True)
    scaled = centered / ((centered**2).mean(-1, keepdim=True) + norm.eps).sqrt()
    return (scaled * norm.weight.flatten() + norm.bias.flatten()).movedim(-1, dim)


def pointwise(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    """A 1x1 convolution as a sum over channels."""
    out = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], maps)
    return out if conv.bias is None else out + conv.bias.view(1, -1, 1, 1)


def convolution(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    """Any convolution as a sum over its taps: one shifted product each, with zeros outside the map."""
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    ph, pw = conv.padding
    batch, channels, height, width = maps.shape
    padded = maps.new_zeros(batch, channels, height + 2 * ph, width + 2 * pw)
    padded[:, :, ph : ph + height, pw : pw + width] = maps
    rows, columns = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    weight = conv.weight.unflatten(0, (conv.groups, -1))  # (groups, out / groups, in / groups, kh, kw)
    out = 0
    for row in range(kh):
        for column in range(kw):
            top, left = row * dh, column * dw
            moved = padded[:, :, top : top + (rows - 1) * sh + 1 : sh, left : left + (columns - 1) * sw + 1 : sw]
            out = out + torch.einsum(
                "goi,bgihw->bgohw", weight[..., row, column], moved.unflatten(1, (conv.groups, -1))
            )
    out = out.flatten(1, 2)
    return out if conv.bias is None else out + conv.bias.view(1, -1, 1, 1)


def conv_norm(layer: nn.Module, maps: Tensor) -> Tensor:
    """models.layers.Conv: convolution, batch norm by the running statistics, activation."""
    features = batch_norm(layer.bn, convolution(layer.conv, maps))
    return {"SiLU": silu, "ReLU": relu, "Identity": lambda value: value}[type(layer.act).__name__](features)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """Dense attention of (B, heads, N, d), one query after the other."""
    out = []
    for place in range(query.shape[2]):
        share = softmax(scale * (query[:, :, place : place + 1] * key).sum(3), 2)  # (B, heads, keys)
        out.append((share.unsqueeze(3) * value).sum(2))
    return torch.stack(out, 2)


def applied(shown: AppliedAttention, value: Tensor) -> Tensor:
    """Recorded attention weights times (B, heads, n, d) values: (B, heads, Q, d). A key outside the map has none."""
    if shown.keys is None:
        return shown.values @ value
    outside = value.new_zeros(*value.shape[:2], 1, value.shape[3])
    taken = torch.cat((value, outside), 2)[:, :, shown.keys]  # (B, heads, Q, K, d); index -1 is the last
    return (shown.values.unsqueeze(3) @ taken).squeeze(3)


def tokens(maps: Tensor, heads: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, heads, N, C / heads)."""
    batch, channels, height, width = maps.shape
    return maps.reshape(batch, heads, channels // heads, height * width).permute(0, 1, 3, 2)


def maps_of(values: Tensor, like: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, heads * d, H, W) of the size of `like`."""
    return values.permute(0, 1, 3, 2).reshape(like.shape[0], -1, *like.shape[2:])
