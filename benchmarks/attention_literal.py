"""The literal form of each attention block: its formula as papers and tutorials write it, vectorized and no more.

Neighborhoods are unfolded, softmax matrices are N x N, sampled taps are copied (im2col), maps become tokens wherever a
paper has tokens. `LITERAL` holds a function of (block, x) for each registered block: it reads the block's own weights
and returns what the block returns in evaluation mode.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LITERAL: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {}


def literal_of(*names: str) -> Callable:
    """Return a decorator that enters a function in `LITERAL` under the names of blocks."""

    def enter(function: Callable) -> Callable:
        LITERAL.update(dict.fromkeys(names, function))
        return function

    return enter


# ---- what several share ----


def _mean(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


def _tokens(maps: Tensor, heads: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, heads, N, C / heads)."""
    return maps.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def _maps(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, heads * d, H, W) of the size of `like`."""
    return tokens.transpose(2, 3).reshape(like.shape[0], -1, *like.shape[2:])


def _dense(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
    """Attention of (B, heads, N, d) by the N x N matrix of weights."""
    logits = query @ key.transpose(-2, -1) * scale
    return torch.softmax(logits if bias is None else logits + bias, -1) @ value


def _unfolded(maps: Tensor, kernel: int, dilation: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, C, kernel^2, H, W): a copy of every neighborhood, zeros outside."""
    copies = F.unfold(maps, kernel, dilation, dilation * (kernel // 2))
    return copies.view(*maps.shape[:2], kernel * kernel, *maps.shape[2:])


def _dynamic(maps: Tensor, kernels: Tensor, kernel: int, shared: int) -> Tensor:
    """Neighbors of `maps` weighted by a kernel (B, C / shared * kernel^2, H, W) of each position."""
    near = _unfolded(maps, kernel).unflatten(1, (-1, shared))  # (B, C / shared, shared, kernel^2, H, W)
    return (near * kernels.unflatten(1, (-1, 1, kernel * kernel))).sum(3).flatten(1, 2)


def _rows(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over tokens: (B, C, H, W) -> (B, N, C_out)."""
    return layer(x.flatten(2).transpose(1, 2))


def _back(rows: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, H, W)."""
    return rows.transpose(1, 2).reshape(like.shape[0], -1, *like.shape[2:])


# ---- gates of channels ----


@literal_of("SEAttention")
def _se(block: nn.Module, x: Tensor) -> Tensor:
    return x * torch.sigmoid(block.fc(_mean(x).flatten(1)))[:, :, None, None].expand_as(x)


@literal_of("ESE")
def _ese(block: nn.Module, x: Tensor) -> Tensor:
    return x * F.hardsigmoid(block.fc(_mean(x)))


@literal_of("ECAAttention")
def _eca(block: nn.Module, x: Tensor) -> Tensor:
    gate = torch.sigmoid(block.conv(_mean(x).squeeze(-1).transpose(-1, -2)))
    return x * gate.transpose(-1, -2).unsqueeze(-1).expand_as(x)


@literal_of("NAMAttention")
def _nam(block: nn.Module, x: Tensor) -> Tensor:
    norm = block.Channel_Att.bn2
    share = norm.weight.abs() / norm.weight.abs().sum()
    weighed = (norm(x).permute(0, 2, 3, 1) * share).permute(0, 3, 1, 2).contiguous()
    return torch.sigmoid(weighed) * x


@literal_of("SimAM")
def _simam(block: nn.Module, x: Tensor) -> Tensor:
    apart = (x - x.mean((2, 3), keepdim=True)).pow(2)
    variance = apart.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    return x * torch.sigmoid(apart / (4 * (variance + block.e_lambda)) + 0.5)


@literal_of("FcaNet")
def _fca(block: nn.Module, x: Tensor) -> Tensor:
    height, width = x.shape[2:]

    def waves(frequency: Tensor, length: int) -> Tensor:
        cells = torch.arange(length, dtype=x.dtype) + 0.5
        held = frequency.clamp(max=length - 1).to(x.dtype)[:, None]
        return torch.cos(math.pi * held * cells / length) * torch.where(held > 0, math.sqrt(2), 1.0)

    table = waves(block.row_frequency, height)[:, :, None] * waves(block.column_frequency, width)[:, None]
    squeezed = (x * table).sum((2, 3)) / (height * width)
    return x * torch.sigmoid(block.fc(squeezed))[:, :, None, None].expand_as(x)


@literal_of("GlobalContext")
def _global_context(block: nn.Module, x: Tensor) -> Tensor:
    share = torch.softmax(block.conv_mask(x).flatten(2), 2).unsqueeze(3)  # (B, 1, N, 1)
    context = (x.flatten(2).unsqueeze(1) @ share).view(*x.shape[:2], 1, 1)
    out = x
    if block.channel_mul_conv is not None:
        out = out * torch.sigmoid(block.channel_mul_conv(context))
    return out if block.channel_add_conv is None else out + block.channel_add_conv(context)


@literal_of("GatherExcite")
def _gather_excite(block: nn.Module, x: Tensor) -> Tensor:
    gathered = x
    for step, (conv, norm) in enumerate(zip(block.gather.convs, block.gather.norms, strict=True)):
        gathered = norm(conv(F.relu(gathered) if step else gathered))
    return x * torch.sigmoid(F.interpolate(gathered, x.shape[2:], mode="nearest"))


@literal_of("SKAttention")
def _sk(block: nn.Module, x: Tensor) -> Tensor:
    maps = torch.stack([branch(x) for branch in block.convs])
    context = block.fc(_mean(maps.sum(0)).flatten(1))
    if block.norm is not None:
        context = F.relu(block.norm(context[..., None, None])).flatten(1)
    weights = torch.softmax(torch.stack([each(context) for each in block.fcs]), 0)
    return (weights[..., None, None] * maps).sum(0)


@literal_of("EPSA")
def _epsa(block: nn.Module, x: Tensor) -> Tensor:
    features = torch.stack([conv(x) for conv in block.convs], 1)  # (B, scales, width, H, W)
    gates = [torch.sigmoid(block.se.fc2(F.relu(block.se.fc1(_mean(each))))) for each in features.unbind(1)]
    return (features * torch.softmax(torch.stack(gates, 1), 1)).flatten(1, 2)


@literal_of("MLCA")
def _mlca(block: nn.Module, x: Tensor) -> Tensor:
    cells, channels = block.local_size, x.shape[1]
    pooled = F.adaptive_avg_pool2d(x, cells)
    sequence = pooled.flatten(2).transpose(1, 2).reshape(len(x), 1, -1)
    local = torch.sigmoid(block.conv_local(sequence)).view(len(x), cells * cells, channels).transpose(1, 2)
    whole = torch.sigmoid(block.conv(_mean(pooled).flatten(1).unsqueeze(1))).transpose(1, 2).unsqueeze(3)
    local = local.reshape(pooled.shape)
    gate = (1 - block.local_weight) * whole.expand_as(local) + block.local_weight * local
    return F.adaptive_avg_pool2d(gate, x.shape[2:]) * x


@literal_of("MCA")
def _mca(block: nn.Module, x: Tensor) -> Tensor:
    out = 0
    for gate, turn in ((block.c_hw, (0, 1, 2, 3)), (block.h_cw, (0, 2, 1, 3)), (block.w_hc, (0, 3, 2, 1))):
        turned = x.permute(turn).contiguous()
        mean, std = _mean(turned), turned.flatten(2).std(2)[..., None, None]
        alpha, beta = torch.sigmoid(gate.weight)
        squeezed = 0.5 * (mean + std) + alpha * mean + beta * std
        logits = gate.conv(squeezed.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        out = out + (turned * torch.sigmoid(logits).expand_as(turned)).permute(turn).contiguous()
    return out / 3


# ---- gates of positions ----


@literal_of("CBAM")
def _cbam(block: nn.Module, x: Tensor) -> Tensor:
    first, second = block.channel_attention.fc1, block.channel_attention.fc2
    branches = [second(F.relu(first(pool(x, 1)))) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)]
    x = x * torch.sigmoid(branches[0] + branches[1])
    pooled = torch.cat((x.max(1, keepdim=True).values, x.mean(1, keepdim=True)), 1)
    return x * torch.sigmoid(block.spatial_attention.conv(pooled))


@literal_of("BAM")
def _bam(block: nn.Module, x: Tensor) -> Tensor:
    gate = torch.sigmoid(block.channel_att(_mean(x)).expand_as(x) + block.spatial_att(x).expand_as(x))
    return x + x * gate


@literal_of("CPCA")
def _cpca(block: nn.Module, x: Tensor) -> Tensor:
    features = F.gelu(block.conv(x))
    gates = [
        torch.sigmoid(block.ca.fc2(F.relu(block.ca.fc1(pool(features, 1)))))
        for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
    ]
    features = (gates[0] + gates[1]) * features
    near = block.dconv5_5(features)
    parts = [
        block.dconv7_1(block.dconv1_7(near)),
        block.dconv11_1(block.dconv1_11(near)),
        block.dconv21_1(block.dconv1_21(near)),
    ]
    return block.conv(block.conv(sum(parts) + near) * features)


@literal_of("GAM")
def _gam(block: nn.Module, x: Tensor) -> Tensor:
    into, _, out = block.channel_attention
    last = x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1])
    hidden = F.relu(F.linear(last, into.weight.flatten(1), into.bias))
    gate = F.linear(hidden, out.weight.flatten(1), out.bias)
    x = x * torch.sigmoid(gate.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2))
    first, norm, _, _, second, final = block.spatial_attention
    hidden = F.relu(norm(first(x)))
    shuffled = hidden.view(len(x), first.groups, -1, *x.shape[2:]).transpose(1, 2).reshape(hidden.shape)
    return x * torch.sigmoid(final(second(shuffled)))


@literal_of("CoordAtt")
def _coordinate(block: nn.Module, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    pooled = torch.cat((x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)), 2)
    rows, columns = F.hardswish(block.bn1(block.conv1(pooled))).split((height, width), 2)
    return x * torch.sigmoid(block.conv_w(columns.transpose(2, 3))) * torch.sigmoid(block.conv_h(rows))


@literal_of("ELA")
def _ela(block: nn.Module, x: Tensor) -> Tensor:
    rows = torch.sigmoid(block.gn_h(block.conv_h(x.mean(3))))
    columns = torch.sigmoid(block.gn_w(block.conv_w(x.mean(2))))
    return x * rows[:, :, :, None] * columns[:, :, None]


@literal_of("EMA")
def _ema(block: nn.Module, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    grouped = x.reshape(len(x) * block.factor, -1, height, width)
    pooled = torch.cat((grouped.mean(3, keepdim=True), grouped.mean(2, keepdim=True).transpose(2, 3)), 2)
    rows, columns = block.conv1x1(pooled).split((height, width), 2)
    first = block.gn(grouped * rows.sigmoid() * columns.transpose(2, 3).sigmoid())
    second = block.conv3x3(grouped)
    shares = [torch.softmax(_mean(each).flatten(1), 1).unsqueeze(1) for each in (first, second)]
    gate = shares[0] @ second.flatten(2) + shares[1] @ first.flatten(2)
    return (grouped * gate.view(-1, 1, height, width).sigmoid()).view(x.shape)


@literal_of("SCSA")
def _scsa(block: nn.Module, x: Tensor) -> Tensor:
    def gate(profile: Tensor, norm: nn.Module) -> Tensor:
        convolutions = (block.local_dwc, block.global_dwc_s, block.global_dwc_m, block.global_dwc_l)
        parts = profile.chunk(4, 1)
        return torch.sigmoid(norm(torch.cat([conv(part) for conv, part in zip(convolutions, parts, strict=True)], 1)))

    x = x * gate(x.mean(3), block.norm_h)[:, :, :, None] * gate(x.mean(2), block.norm_w)[:, :, None]
    pooled = block.norm(F.avg_pool2d(x, block.window_size))
    query, key, value = (
        conv(pooled).flatten(2).unflatten(1, (block.head_num, -1)) for conv in (block.q, block.k, block.v)
    )
    attended = _dense(query, key, value, block.scaler).mean(3)
    return x * torch.sigmoid(attended.flatten(1))[:, :, None, None]


@literal_of("SpatialGroupEnhance")
def _sge(block: nn.Module, x: Tensor) -> Tensor:
    grouped = x.reshape(len(x) * block.groups, -1, *x.shape[2:])
    dots = (grouped * _mean(grouped)).sum(1, keepdim=True).flatten(1)
    off = dots - dots.mean(1, keepdim=True)
    normed = (off / (off.std(1, keepdim=True) + 1e-5)).view(len(x), block.groups, *x.shape[2:])
    gate = torch.sigmoid(normed * block.weight + block.bias)
    return (grouped * gate.reshape(-1, 1, *x.shape[2:])).view(x.shape)


@literal_of("ShuffleAttention")
def _shuffle(block: nn.Module, x: Tensor) -> Tensor:
    first, second = x.reshape(len(x) * block.G, -1, *x.shape[2:]).chunk(2, 1)
    first = first * torch.sigmoid(block.cweight * _mean(first) + block.cbias)
    second = second * torch.sigmoid(block.sweight * block.gn(second) + block.sbias)
    joined = torch.cat((first, second), 1).reshape(len(x), 2, -1, *x.shape[2:])
    return joined.transpose(1, 2).reshape(x.shape)


@literal_of("TripletAttention")
def _triplet(block: nn.Module, x: Tensor) -> Tensor:
    out = 0
    for gate, turn in ((block.hw, (0, 1, 2, 3)), (block.cw, (0, 2, 1, 3)), (block.hc, (0, 3, 2, 1))):
        turned = x.permute(turn).contiguous()
        pooled = torch.cat((turned.max(1, keepdim=True).values, turned.mean(1, keepdim=True)), 1)
        out = out + (turned * torch.sigmoid(gate.conv(pooled))).permute(turn).contiguous()
    return out / 3


@literal_of("ParNetAttention")
def _parnet(block: nn.Module, x: Tensor) -> Tensor:
    gated = torch.sigmoid(block.sse[1](_mean(x))) * x
    return F.silu(block.conv1x1(x) + block.conv3x3(x) + gated)


@literal_of("ParallelPolarizedSelfAttention", "SequentialPolarizedSelfAttention")
def _polarized(block: nn.Module, x: Tensor) -> Tensor:
    def of_channels(maps: Tensor) -> Tensor:
        value = block.ch_wv(maps).flatten(2)
        share = torch.softmax(block.ch_wq(maps).reshape(len(maps), -1, 1), 1)
        seen = block.ch_wz((value @ share).unsqueeze(3))
        return torch.sigmoid(block.ln(seen.flatten(1)))[:, :, None, None]

    def of_positions(maps: Tensor) -> Tensor:
        share = torch.softmax(_mean(block.sp_wq(maps)).flatten(1), 1).unsqueeze(1)
        seen = share @ block.sp_wv(maps).flatten(2)
        return torch.sigmoid(seen.view(len(maps), 1, *maps.shape[2:]))

    if type(block).__name__.startswith("Parallel"):
        return of_channels(x) * x + of_positions(x) * x
    gated = of_channels(x) * x
    return of_positions(gated) * gated


# ---- large kernels ----


@literal_of("LKA")
def _lka(block: nn.Module, x: Tensor) -> Tensor:
    return block.conv1(block.conv_spatial(block.conv0(x))) * x


@literal_of("LSKA")
def _lska(block: nn.Module, x: Tensor) -> Tensor:
    near = block.conv0v(block.conv0h(x))
    return block.conv1(block.conv_spatial_v(block.conv_spatial_h(near))) * x


@literal_of("LSKA_Attention")
def _lska_attention(block: nn.Module, x: Tensor) -> Tensor:
    return x + block.proj_2(_lska(block.spatial_gating_unit, F.gelu(block.proj_1(x))))


@literal_of("LSKblock")
def _lsk(block: nn.Module, x: Tensor) -> Tensor:
    near = block.conv0(x)
    parts = torch.cat((block.conv1(near), block.conv2(block.conv_spatial(near))), 1)
    pooled = torch.cat((parts.mean(1, keepdim=True), parts.max(1, keepdim=True).values), 1)
    share = torch.sigmoid(block.conv_squeeze(pooled))
    first, second = parts.chunk(2, 1)
    return x * block.conv(first * share[:, :1] + second * share[:, 1:])


@literal_of("Strip")
def _strip(block: nn.Module, x: Tensor) -> Tensor:
    return block.conv1(block.conv_spatial2(block.conv_spatial1(block.conv0(x)))) * x


@literal_of("CAA")
def _caa(block: nn.Module, x: Tensor) -> Tensor:
    pooled = F.avg_pool2d(x, 7, 1, 3)
    return torch.sigmoid(block.conv2(block.v_conv(block.h_conv(block.conv1(pooled))))) * x


@literal_of("RCM")
def _rcm(block: nn.Module, x: Tensor) -> Tensor:
    attention = block.attention
    means = F.adaptive_avg_pool2d(x, (None, 1)) + F.adaptive_avg_pool2d(x, (1, None))
    gate = torch.sigmoid(attention.columns(attention.rows(means)))
    return x + block.fc2(F.gelu(block.fc1(block.norm(gate * attention.local(x)))))


@literal_of("CAS")
def _cas(block: nn.Module, x: Tensor) -> Tensor:
    def gated(gate: nn.Module, maps: Tensor) -> Tensor:
        maps = maps * torch.sigmoid(gate.position(gate.local(maps)))
        return maps * torch.sigmoid(gate.channel(_mean(maps)))

    query, key, value = block.qkv(x).chunk(3, 1)
    return x + block.proj(block.dwc(gated(block.oper_q, query) + gated(block.oper_k, key)) * value)


@literal_of("DLKA")
def _dlka(block: nn.Module, x: Tensor) -> Tensor:
    def sampled(layer: nn.Module, maps: Tensor) -> Tensor:
        conv, (height, width) = layer.deform_conv, maps.shape[2:]
        side, dilation = layer.offset_net.kernel_size[0], layer.offset_net.dilation[0]
        steps = layer.offset_net(maps).unflatten(1, (side * side, 2))  # (B, taps, (down, right), H, W)
        tap = (torch.arange(side, dtype=x.dtype) - side // 2) * dilation
        down = torch.arange(height, dtype=x.dtype)[:, None] + tap.repeat_interleave(side)[:, None, None]
        right = torch.arange(width, dtype=x.dtype) + tap.repeat(side)[:, None, None]
        places = torch.stack(
            (2 * (right + steps[:, :, 1]) / (width - 1) - 1, 2 * (down + steps[:, :, 0]) / (height - 1) - 1), 4
        )  # (B, taps, H, W, 2)
        copies = F.grid_sample(maps, places.flatten(1, 2), align_corners=True)  # (B, C, taps * H, W)
        weight = conv.weight.view(-1, side * side, 1, 1)
        return (copies.view(*maps.shape[:2], side * side, height, width) * weight).sum(2)

    return block.conv1(sampled(block.conv_spatial, sampled(block.conv0, x))) * x


# ---- neighborhoods ----


@literal_of("ACmix")
def _acmix(block: nn.Module, x: Tensor) -> Tensor:
    query, key, value = block.conv1(x), block.conv2(x), block.conv3(x)
    batch, channels, height, width = query.shape
    heads, dim, kernel = block.head, block.head_dim, block.kernel_att
    reach = kernel // 2 * block.dilation

    def near(maps: Tensor) -> Tensor:
        copies = F.unfold(F.pad(maps, (reach,) * 4, mode="reflect"), kernel, block.dilation)
        return copies.view(-1, dim, kernel * kernel, height, width)

    grid = torch.stack(
        (torch.linspace(-1, 1, width).expand(height, -1), torch.linspace(-1, 1, height)[:, None].expand(-1, width))
    )
    position = block.conv_p(grid[None])
    apart = position.unsqueeze(2) - near(position)
    queries = query.reshape(batch * heads, dim, 1, height, width) * dim**-0.5
    logits = (queries * (near(key.reshape(batch * heads, dim, height, width)) + apart)).sum(1, keepdim=True)
    values = near(value.reshape(batch * heads, dim, height, width))
    attended = (torch.softmax(logits, 2) * values).sum(2).view(batch, channels, height, width)
    parts = torch.cat([each.reshape(batch, heads, dim, -1) for each in (query, key, value)], 1)
    mixed = block.fc(parts).permute(0, 2, 1, 3).reshape(batch, -1, height, width)
    return block.rate1 * attended + block.rate2 * block.dep_conv(mixed)


@literal_of("CoTAttention")
def _cot_attention(block: nn.Module, x: Tensor) -> Tensor:
    static, values = block.key_embed(x), block.value_embed(x)
    logits = block.attention_embed(torch.cat((static, x), 1))
    logits = logits.reshape(len(x), x.shape[1], block.kernel_size**2, *x.shape[2:]).mean(2).flatten(2)
    return static + (torch.softmax(logits, 2) * values.flatten(2)).view(x.shape)


@literal_of("CoT")
def _cot(block: nn.Module, x: Tensor) -> Tensor:
    static, values = block.key_embed(x), block.value_embed(x)
    kernels = block.attention_embed(torch.cat((x, static), 1))
    dynamic = block.act(block.bn(_dynamic(values, kernels, block.kernel_size, 8)))
    both = torch.stack((dynamic, static), 2)  # (B, C, 2, H, W)
    share = torch.softmax(block.fuse_embed(_mean(both.sum(2))).view(len(x), -1, 2), 2)
    return (both * share[..., None, None]).sum(2)


@literal_of("LSConv")
def _lsconv(block: nn.Module, x: Tensor) -> Tensor:
    return x + block.bn(_dynamic(x, block.lkp(x).flatten(1, 2), block.sks, block.groups))


@literal_of("MSDA")
def _msda(block: nn.Module, x: Tensor) -> Tensor:
    parts = []
    for number, maps in enumerate(block.qkv(x).unflatten(1, (3, len(block.dilation), -1)).unbind(2)):
        query, key, value = (
            each.reshape(-1, block.head_dim, *x.shape[2:]) for each in maps.unbind(1)
        )  # (B * heads, d, H, W)
        keys, values = (_unfolded(each, block.kernel_size, block.dilation[number]) for each in (key, value))
        logits = (query.unsqueeze(2) * keys).sum(1, keepdim=True) * block.head_dim**-0.5
        parts.append((torch.softmax(logits, 2) * values).sum(2).reshape(len(x), -1, *x.shape[2:]))
    return _back(_rows(block.proj, torch.cat(parts, 1)), x)


# ---- attention over all positions ----


@literal_of("MHSA")
def _mhsa(block: nn.Module, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    query, key, value = (_tokens(conv(x), block.heads) for conv in (block.query, block.key, block.value))
    by_row = F.interpolate(block.rel_w.flatten(1, 2), (height, 1), mode="bilinear")
    by_column = F.interpolate(block.rel_h.flatten(1, 2), (1, width), mode="bilinear")
    position = _tokens(by_row + by_column, block.heads)
    bias = position @ query.transpose(2, 3)
    return _maps(_dense(query, key, value, bias=bias), x)


@literal_of("BoT")
def _bot(block: nn.Module, x: Tensor) -> Tensor:
    layer, maps, (height, width) = block.attention, block.contract(x), x.shape[2:]
    query, key, value = (_tokens(conv(maps), layer.heads) for conv in (layer.query, layer.key, layer.value))

    def table(rows: Tensor, length: int) -> Tensor:
        reach, at = len(rows) // 2, torch.arange(length)
        return rows[(at - at[:, None]).clamp(-reach, reach) + reach]

    grid = query.unflatten(2, (height, width)) * layer.scale
    to_rows = torch.einsum("bnyxd,yjd->bnyxj", grid, table(layer.rel_h, height))
    to_columns = torch.einsum("bnyxd,xjd->bnyxj", grid, table(layer.rel_w, width))
    bias = to_rows[..., :, None] + to_columns[..., None, :]  # (B, heads, H, W, H, W)
    attended = _dense(query, key, value, layer.scale, bias.flatten(4).flatten(2, 3))
    return x + block.expand(F.relu(block.norm(_maps(attended, x))))


@literal_of("NonLocal")
def _non_local(block: nn.Module, x: Tensor) -> Tensor:
    tokens = (_tokens(conv(x)) for conv in (block.theta, block.phi, block.g))
    return x + block.z(_maps(_dense(*tokens, scale=block.scale), x))


@literal_of("DualAttention")
def _dual(block: nn.Module, x: Tensor) -> Tensor:
    (_, layer, second), maps = block.position, block.position[0](x)
    tokens = (_tokens(conv(maps)) for conv in (layer.query_conv, layer.key_conv, layer.value_conv))
    positions = second(layer.gamma * _maps(_dense(*tokens), x) + maps)
    (_, layer, second), maps = block.channel, block.channel[0](x)
    rows = maps.flatten(2)
    products = rows @ rows.transpose(1, 2)
    share = torch.softmax(products.max(2, keepdim=True).values.expand_as(products) - products, 2)
    return block.project(positions + second(layer.gamma * (share @ rows).view_as(maps) + maps))


@literal_of("C2PSA")
def _c2psa(block: nn.Module, x: Tensor) -> Tensor:
    around, through = block.split(x).chunk(2, 1)
    for each in block.blocks:
        layer = each.attention
        keys = max(through.shape[1] // layer.heads // 2, 1)
        sizes = (layer.heads * keys, layer.heads * keys, through.shape[1])
        query, key, value = layer.qkv(through).split(sizes, 1)
        attended = _maps(_dense(*(_tokens(part, layer.heads) for part in (query, key, value)), keys**-0.5), x)
        through = through + layer.project(attended + layer.position(value))
        through = through + each.mlp(through)
    return block.merge(torch.cat((around, through), 1))


@literal_of("AreaAttention")
def _area(block: nn.Module, x: Tensor) -> Tensor:
    """For maps whose positions the areas divide."""
    query, key, value = block.qkv(x).chunk(3, 1)
    runs = (_tokens(each, block.num_heads).unflatten(2, (block.area, -1)) for each in (query, key, value))
    attended = _dense(*runs, scale=(x.shape[1] // block.num_heads) ** -0.5).flatten(2, 3)
    return x + block.project(_maps(attended, x) + block.position(value))


@literal_of("SHSA")
def _shsa(block: nn.Module, x: Tensor) -> Tensor:
    part, rest = x.split((block.pdim, x.shape[1] - block.pdim), 1)
    query, key, value = block.qkv(block.pre_norm(part)).split((block.qk_dim, block.qk_dim, block.pdim), 1)
    attended = _maps(_dense(_tokens(query), _tokens(key), _tokens(value), block.qk_dim**-0.5), x)
    return x + block.proj(torch.cat((attended, rest), 1))


@literal_of("DAttentionBaseline")
def _deformable(block: nn.Module, x: Tensor) -> Tensor:
    """With the positional convolution, offsets bounded, one reference point per position."""
    query, (height, width) = block.proj_q(x), x.shape[2:]
    offsets = block.conv_offset(query.reshape(len(x) * block.groups, -1, height, width))
    reach = torch.tensor([1 / (height - 1), 1 / (width - 1)]).view(1, 2, 1, 1)
    offsets = (offsets.tanh() * reach * block.offset_range_factor).permute(0, 2, 3, 1)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    references = torch.stack((rows / (height - 1), columns / (width - 1)), 2) * 2 - 1
    places = references + offsets
    grouped = x.reshape(len(x) * block.groups, -1, height, width)
    sampled = F.grid_sample(grouped, places[..., (1, 0)], align_corners=True).reshape(x.shape)
    tokens = (_tokens(maps, block.heads) for maps in (query, block.proj_k(sampled), block.proj_v(sampled)))
    return block.proj_out(_maps(_dense(*tokens, scale=block.scale), x) + block.rpe_table(query))


@literal_of("CrissCross")
def _criss_cross(block: nn.Module, x: Tensor) -> Tensor:
    batch, height, width = len(x), *x.shape[2:]
    itself = torch.diag(torch.full((height,), math.inf)).unsqueeze(0)

    def lines(maps: Tensor, axis: int) -> Tensor:
        """A line of the map per row of the batch: (B * lines, C, length)."""
        order = (0, 3, 1, 2) if axis == 2 else (0, 2, 1, 3)
        return maps.permute(order).reshape(-1, maps.shape[1], maps.shape[axis])

    for _ in range(block.recurrence):
        query, key, value = block.query_conv(x), block.key_conv(x), block.value_conv(x)
        down = lines(query, 2).transpose(1, 2) @ lines(key, 2) - itself
        along = lines(query, 3).transpose(1, 2) @ lines(key, 3)
        down = down.view(batch, width, height, height).transpose(1, 2)
        share = torch.softmax(torch.cat((down, along.view(batch, height, width, width)), 3), 3)
        of_rows = share[..., :height].transpose(1, 2).reshape(-1, height, height)
        of_columns = share[..., height:].reshape(-1, width, width)
        seen_down = (lines(value, 2) @ of_rows.transpose(1, 2)).view(batch, width, -1, height).permute(0, 2, 3, 1)
        seen_along = (lines(value, 3) @ of_columns.transpose(1, 2)).view(batch, height, -1, width).transpose(1, 2)
        x = block.gamma * (seen_down + seen_along) + x
    return x


# ---- attention over descriptors, agents and sums ----


def _double(block: nn.Module, x: Tensor) -> Tensor:
    features = block.convA(x).flatten(2)
    gather, distribute = torch.softmax(block.convB(x).flatten(2), 2), torch.softmax(block.convV(x).flatten(2), 1)
    return (features @ gather.transpose(1, 2) @ distribute).view(len(x), -1, *x.shape[2:])


@literal_of("DoubleAttentionLayer")
def _double_attention(block: nn.Module, x: Tensor) -> Tensor:
    return block.conv_reconstruct(_double(block, x)) if block.reconstruct else _double(block, x)


@literal_of("A2")
def _a2(block: nn.Module, x: Tensor) -> Tensor:
    return x + block.conv_reconstruct(_double(block, x))


@literal_of("ExternalAttention")
def _external(block: nn.Module, x: Tensor) -> Tensor:
    weights = torch.softmax(block.mk(x).flatten(2), 2)
    weights = weights / weights.sum(1, keepdim=True)
    return x + block.mv(weights.unflatten(2, x.shape[2:]))


@literal_of("Agent")
def _agent(block: nn.Module, x: Tensor) -> Tensor:
    query, (key, value) = block.q(x), block.kv(x).chunk(2, 1)
    agents = F.adaptive_avg_pool2d(query, block.side)
    query, agents, key, tokens = (_tokens(maps, block.num_heads) for maps in (query, agents, key, value))
    gathered = _dense(agents, key, tokens, block.scale)
    return x + block.proj(_maps(_dense(query, agents, gathered, block.scale), x) + block.dwc(value))


def _kernel_attention(query: Tensor, key: Tensor, value: Tensor, epsilon: float) -> Tensor:
    """Linear attention of (B, heads, N, d) by sums over positions, as the published codes order them."""
    count = key.shape[2]
    norm = 1 / (query @ key.mean(2, keepdim=True).transpose(2, 3) + epsilon)
    return query @ ((key * count**-0.5).transpose(2, 3) @ (value * count**-0.5)) * norm


def _split(rows: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return rows.unflatten(2, (heads, -1)).transpose(1, 2)


def _local(block: nn.Module, value: Tensor, like: Tensor) -> Tensor:
    """The depth-wise convolution that all heads share, on (B, heads, N, d)."""
    maps = value.transpose(2, 3).reshape(-1, value.shape[3], *like.shape[2:])
    return block.dwc(maps).reshape(len(like), -1, like.shape[2] * like.shape[3]).transpose(1, 2)


@literal_of("FocusedLinearAttention")
def _focused_linear(block: nn.Module, x: Tensor) -> Tensor:
    def focused(rows: Tensor) -> Tensor:
        rows = (F.relu(rows) + 1e-6) / F.softplus(block.scale)
        size, powers = rows.norm(dim=2, keepdim=True), rows**block.focusing_factor
        return powers / powers.norm(dim=2, keepdim=True) * size

    query, (key, value) = _rows(block.q, x), _rows(block.kv, x).chunk(2, 2)
    parts = (_split(each, block.num_heads) for each in (focused(query), focused(key), value))
    query, key, value = parts
    attended = _kernel_attention(query, key, value, 1e-6).transpose(1, 2).flatten(2)
    return _back(block.proj(attended + _local(block, value, x)), x)


@literal_of("PolaFormer")
def _polaformer(block: nn.Module, x: Tensor) -> Tensor:
    query, gate = _rows(block.qg, x).chunk(2, 2)
    key, value = _rows(block.kv, x).chunk(2, 2)
    scale, power = F.softplus(block.scale), 1 + block.alpha * torch.sigmoid(block.power)
    query, key, value = (_split(each, block.num_heads) for each in (query / scale, key / scale, value))
    plus, minus = F.relu(query) ** power, F.relu(-query) ** power
    keys = torch.cat((F.relu(key) ** power, F.relu(-key) ** power), 3)
    first, second = value.chunk(2, 3)
    same = _kernel_attention(torch.cat((plus, minus), 3), keys, first, 1e-6)
    opposite = _kernel_attention(torch.cat((minus, plus), 3), keys, second, 1e-6)
    attended = torch.cat((same, opposite), 3).transpose(1, 2).flatten(2)
    return x + _back(block.proj((attended + _local(block, value, x)) * gate), x)


@literal_of("LiteMLA")
def _lite_mla(block: nn.Module, x: Tensor) -> Tensor:
    qkv = block.qkv(x)
    scales = torch.cat([qkv, *(each(qkv) for each in block.aggreg)], 1)
    query, key, value = scales.reshape(len(x), -1, 3 * block.dim, x.shape[2] * x.shape[3]).transpose(2, 3).chunk(3, 3)
    query, key, value = F.relu(query), F.relu(key), F.pad(value, (0, 1), value=1.0)
    summed = query @ (key.transpose(2, 3) @ value)
    return x + block.proj(_maps(summed[..., :-1] / (summed[..., -1:] + block.eps), x))


@literal_of("TSSA")
def _tssa(block: nn.Module, x: Tensor) -> Tensor:
    rows = _split(_rows(block.qkv, x), block.num_heads)  # (B, heads, N, d)
    normed = F.normalize(rows, dim=2)
    member = torch.softmax((normed**2).sum(3) * block.temp, 1)  # (B, heads, N)
    moments = (member / (member.sum(2, keepdim=True) + 1e-8)).unsqueeze(2) @ rows**2
    steps = -(rows * member.unsqueeze(3)) / (1 + moments)
    return x + _back(block.to_out(steps.transpose(1, 2).flatten(2)), x)


@literal_of("Sea_Attention")
def _sea(block: nn.Module, x: Tensor) -> Tensor:
    query, key, value = block.to_q(x), block.to_k(x), block.to_v(x)

    def axial(axis: int, names: tuple[nn.Module, nn.Module]) -> Tensor:
        parts = [each.mean(axis) for each in (query, key, value)]  # (B, C, L)
        for index, layer in enumerate(names):
            parts[index] = parts[index] + F.interpolate(layer.pos_embed, parts[index].shape[2], mode="linear")
        tokens = [part.unflatten(1, (block.num_heads, -1)).transpose(2, 3) for part in parts]
        attended = _dense(*tokens, scale=tokens[0].shape[3] ** -0.5)
        return attended.transpose(2, 3).flatten(1, 2)

    rows = block.proj_encode_row(axial(3, (block.pos_emb_rowq, block.pos_emb_rowk)).unsqueeze(3))
    columns = block.proj_encode_column(axial(2, (block.pos_emb_columnq, block.pos_emb_columnk)).unsqueeze(2))
    detail = block.pwconv(block.act(block.dwconv(torch.cat((query, key, value), 1))))
    return F.hardsigmoid(block.proj(value + (rows + columns))) * detail


# ---- windows and regions ----


def _windows(maps: Tensor, rows: int, columns: int) -> Tensor:
    """(B, H, W, C) -> (B, windows, rows * columns, C)."""
    batch, height, width, channels = maps.shape
    cut = maps.view(batch, height // rows, rows, width // columns, columns, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, rows * columns, channels)


def _joined(windows: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    """The inverse of `_windows`."""
    cut = windows.reshape(len(windows), height // rows, width // columns, rows, columns, -1)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(len(windows), height, width, -1)


def _window_msa(layer: nn.Module, normed: Tensor) -> Tensor:
    """(B, H, W, C) to the same: padded, rolled, cut, attended with a mask, joined and rolled back."""
    side, heads, (height, width, channels) = layer.window_size, layer.num_heads, normed.shape[1:]
    shifts = [layer.shift_size if length > side else 0 for length in (height, width)]
    below, right = -height % side, -width % side
    maps = F.pad(normed, (0, 0, 0, right, 0, below))
    size = maps.shape[1:3]
    origins = torch.zeros(1, *size, 1)
    for axis, (length, real, shift) in enumerate(zip(size, (height, width), shifts, strict=True)):
        at = torch.arange(length)
        index = torch.where(at < real, (at - shift).div(side, rounding_mode="floor") + 1, length)
        origins = origins + index.view(1, *((-1, 1) if axis == 0 else (1, -1)), 1) * (1000 if axis == 0 else 1)
    rolled, origins = (each.roll([-shift for shift in shifts], (1, 2)) for each in (maps, origins))
    windows, marks = _windows(rolled, side, side), _windows(origins, side, side)[0, :, :, 0]
    apart = (marks[:, None] != marks[:, :, None]).float() * -1e4  # (windows, L, L)
    qkv = layer.qkv(windows).unflatten(3, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)  # 3, B, windows, heads, L, d
    bias = layer.relative_position_bias_table[layer.relative_position_index.flatten()]
    bias = bias.view(side * side, side * side, heads).permute(2, 0, 1) + apart.unsqueeze(1)
    attended = _dense(*qkv, scale=(channels // heads) ** -0.5, bias=bias).transpose(2, 3).flatten(3)
    joined = _joined(layer.proj(attended), side, side, *size).roll(shifts, (1, 2))
    return joined[:, :height, :width]


def _last_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), normalized over the channels."""
    return F.layer_norm(x.permute(0, 2, 3, 1).contiguous(), (x.shape[1],), norm.weight, norm.bias, norm.eps)


@literal_of("WindowAttention")
def _window_attention(block: nn.Module, x: Tensor) -> Tensor:
    for norm, layer in zip(block.norms, block.attentions, strict=True):
        x = x + _window_msa(layer, _last_norm(norm, x)).permute(0, 3, 1, 2).contiguous()
    return x


@literal_of("HAT")
def _hat(block: nn.Module, x: Tensor) -> Tensor:
    normed = _last_norm(block.norm1, x)
    mixed = block.conv_block.cab(normed.permute(0, 3, 1, 2).contiguous())
    mixed = mixed * block.conv_block.gate(_mean(mixed))
    x = x + _window_msa(block.attn, normed).permute(0, 3, 1, 2) + block.conv_scale * mixed
    first, act, second = block.mlp
    hidden = act(F.linear(_last_norm(block.norm2, x), first.weight.flatten(1), first.bias))
    return x + F.linear(hidden, second.weight.flatten(1), second.bias).permute(0, 3, 1, 2)


@literal_of("BRA")
def _bra(block: nn.Module, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    rows, columns = (math.ceil(length / block.n_win) for length in (height, width))
    qkv = block.qkv(x)
    maps = F.pad(qkv.permute(0, 2, 3, 1), (0, 0, 0, -width % columns, 0, -height % rows))
    inside = F.pad(torch.ones(1, height, width, 1), (0, 0, 0, -width % columns, 0, -height % rows))
    windows, inside = _windows(maps, rows, columns), _windows(inside, rows, columns)  # (B, R, L, 3 C)
    query, pair = windows.split((channels, 2 * channels), 3)
    means = windows.detach().sum(2) / inside.sum(2)
    affinity = means[..., :channels] @ means[..., channels : 2 * channels].transpose(1, 2)
    routes = affinity.topk(min(block.topk, affinity.shape[2]), 2).indices  # (B, R, k)
    count, size = pair.shape[1:3]

    def gathered(values: Tensor) -> Tensor:
        every = values.unsqueeze(1).expand(-1, count, -1, -1, -1)
        index = routes[..., None, None].expand(-1, -1, -1, size, values.shape[3])
        return every.gather(2, index).flatten(2, 3)  # (B, R, k * L, .)

    key, value = gathered(pair).chunk(2, 3)
    mask = (gathered(inside.expand(batch, -1, -1, -1)) - 1).squeeze(3)[:, :, None, None] * 1e9
    query, key, value = (each.unflatten(3, (block.num_heads, -1)).transpose(2, 3) for each in (query, key, value))
    attended = _dense(query, key, value, block.scale, mask).transpose(2, 3).flatten(3)
    joined = _joined(attended, rows, columns, *maps.shape[1:3])[:, :height, :width].permute(0, 3, 1, 2)
    return block.wo(joined + block.lepe(qkv[:, 2 * channels :]))
