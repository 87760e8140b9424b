"""The catalogue of attention blocks: one import line per block."""

from models.attention.a2 import A2
from models.attention.acmix import ACmix
from models.attention.agent import Agent
from models.attention.area import AreaAttention
from models.attention.bam import BAM
from models.attention.bot import BoT
from models.attention.bra import BRA
from models.attention.c2psa import C2PSA
from models.attention.caa import CAA
from models.attention.cas import CAS
from models.attention.cbam import CBAM, ChannelAttentionModule, spatial_attention
from models.attention.coordinate import CoordAtt
from models.attention.cot import CoTAttention
from models.attention.cot_layer import CoT
from models.attention.cpca import CPCA
from models.attention.criss_cross import CrissCross
from models.attention.deformable import DAttentionBaseline
from models.attention.dlka import DLKA
from models.attention.double_attention import DoubleAttentionLayer
from models.attention.dual_attention import DualAttention
from models.attention.eca import ECAAttention
from models.attention.ela import ELA
from models.attention.ema import EMA
from models.attention.epsa import EPSA
from models.attention.external import ExternalAttention
from models.attention.fca import FcaNet
from models.attention.focused_linear import FocusedLinearAttention
from models.attention.gam import GAM
from models.attention.gather_excite import GatherExcite
from models.attention.global_context import GlobalContext
from models.attention.hat import HAT
from models.attention.lite_mla import LiteMLA
from models.attention.lka import LKA
from models.attention.lsconv import LSConv
from models.attention.lsk import LSKblock
from models.attention.lska import LSKA, LSKA_Attention
from models.attention.mca import MCA
from models.attention.mhsa import MHSA
from models.attention.mlca import MLCA
from models.attention.msda import MSDA
from models.attention.nam import NAMAttention
from models.attention.non_local import NonLocal
from models.attention.parnet import ParNetAttention
from models.attention.polaformer import PolaFormer
from models.attention.polarized import ParallelPolarizedSelfAttention, SequentialPolarizedSelfAttention
from models.attention.rcm import RCM
from models.attention.scsa import SCSA
from models.attention.se import ESE, SEAttention
from models.attention.sea import Sea_Attention
from models.attention.sge import SpatialGroupEnhance
from models.attention.shsa import SHSA
from models.attention.shuffle import ShuffleAttention
from models.attention.simam import SimAM
from models.attention.sk import SKAttention
from models.attention.strip import Strip
from models.attention.swin import WindowAttention
from models.attention.triplet import TripletAttention
from models.attention.tssa import TSSA

__all__ = [
    "A2",
    "ACmix",
    "Agent",
    "AreaAttention",
    "BAM",
    "BRA",
    "BoT",
    "C2PSA",
    "CAA",
    "CAS",
    "CBAM",
    "CPCA",
    "ChannelAttentionModule",
    "CoT",
    "CoTAttention",
    "CoordAtt",
    "CrissCross",
    "DAttentionBaseline",
    "DLKA",
    "DoubleAttentionLayer",
    "DualAttention",
    "ECAAttention",
    "ELA",
    "EMA",
    "EPSA",
    "ESE",
    "ExternalAttention",
    "FcaNet",
    "FocusedLinearAttention",
    "GAM",
    "GatherExcite",
    "GlobalContext",
    "HAT",
    "LKA",
    "LSConv",
    "LSKA",
    "LSKA_Attention",
    "LSKblock",
    "LiteMLA",
    "MCA",
    "MHSA",
    "MLCA",
    "MSDA",
    "NAMAttention",
    "NonLocal",
    "ParNetAttention",
    "ParallelPolarizedSelfAttention",
    "PolaFormer",
    "RCM",
    "SCSA",
    "SEAttention",
    "SHSA",
    "SKAttention",
    "Sea_Attention",
    "SequentialPolarizedSelfAttention",
    "ShuffleAttention",
    "SimAM",
    "SpatialGroupEnhance",
    "Strip",
    "TSSA",
    "TripletAttention",
    "WindowAttention",
    "spatial_attention",
]
