"""The catalogue of attention blocks: one import line a block."""

from models.attention.acmix import ACmix
from models.attention.cbam import CBAM, ChannelAttentionModule, spatial_attention
from models.attention.cot import CoTAttention
from models.attention.double_attention import DoubleAttentionLayer
from models.attention.mhsa import MHSA
from models.attention.polarized import ParallelPolarizedSelfAttention, SequentialPolarizedSelfAttention
from models.attention.sea import Sea_Attention

__all__ = [
    "ACmix",
    "CBAM",
    "ChannelAttentionModule",
    "CoTAttention",
    "DoubleAttentionLayer",
    "MHSA",
    "ParallelPolarizedSelfAttention",
    "Sea_Attention",
    "SequentialPolarizedSelfAttention",
    "spatial_attention",
]
