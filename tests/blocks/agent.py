"""Agent."""

import math

import torch

from blocks import BlockCase, Oracle
from blocks.literal import convolution, maps_of, pointwise, softmax, tokens
from models.attention.agent import Agent


def cell(index, cells, length):
    return slice(math.floor(index * length / cells), math.ceil((index + 1) * length / cells))


def slow_agent(block, x):
    """Agents and positions of one image and head at a time, agent by agent and position by position."""
    batch, channels, height, width = x.shape
    query, (key, value) = pointwise(block.q, x), pointwise(block.kv, x).chunk(2, 1)
    rows, columns, dim = min(block.side, height), min(block.side, width), channels // block.num_heads
    attended = torch.zeros_like(x)
    for image in range(batch):
        for head in range(block.num_heads):
            own = slice(head * dim, (head + 1) * dim)
            q, k, v = query[image, own], key[image, own].flatten(1), value[image, own].flatten(1)
            agents = [
                q[:, cell(a, rows, height), cell(b, columns, width)].mean((1, 2))
                for a in range(rows)
                for b in range(columns)
            ]
            seen = [(v * softmax((agent[:, None] * k).sum(0) / math.sqrt(dim), 0)).sum(1) for agent in agents]
            for a in range(height):
                for b in range(width):
                    share = softmax(torch.stack([(q[:, a, b] * agent).sum() / math.sqrt(dim) for agent in agents]), 0)
                    attended[image, own, a, b] = sum(part * each for part, each in zip(share, seen, strict=True))
    return x + pointwise(block.proj, attended + convolution(block.dwc, value))


def rebuilt_agent(block, x, records):
    """Values gathered by the map of each agent, and handed to each position as shown."""
    value = pointwise(block.kv, x).chunk(2, 1)[1]
    seen, taken = (record.values.flatten(2).unflatten(1, (block.num_heads, -1)) for record in records)
    gathered = seen @ tokens(value, block.num_heads)
    attended = taken.transpose(2, 3) @ gathered
    return x + pointwise(block.proj, maps_of(attended, x) + convolution(block.dwc, value))


CASES = {
    "Agent": BlockCase(
        oracles={
            "four agents, maps they do not divide": Oracle(lambda: Agent(8, num_heads=2, agent_num=4), slow_agent, 8),
            "49 agents": Oracle(
                lambda: Agent(8, num_heads=4, qkv_bias=True), slow_agent, 8, sizes=((1, 1), (8, 9), (3, 10))
            ),
        },
        counts={channels: 4 * channels**2 + 11 * channels for channels in (64, 512)},
        rebuilt=rebuilt_agent,
        refused={(30, 4): "one of 1, 2, 3", (32, 4, False, 50): "49 or 64", (32, 4, False, 0): "agent_num"},
    )
}
