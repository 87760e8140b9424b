"""The catalogue of attention blocks: one import line a block."""

from models.attention.acmix import ACmix
from models.attention.cbam import CBAM, ChannelAttentionModule, spatial_attention
from models.attention.cot import CoTAttention
from models.attention.double_attention import DoubleAttentionLayer
from models.attention.mhsa import MHSA

__all__ = [
    "ACmix",
    "CBAM",
    "ChannelAttentionModule",
    "CoTAttention",
    "DoubleAttentionLayer",
    "MHSA",
    "spatial_attention",
]
