"""Every layer and attention block under one import.

from models.common import C3, CBAM, CoTAttention
"""

from models.attention import *  # noqa: F401,F403
from models.c3_attention import C3Attention  # noqa: F401
from models.layers import *  # noqa: F401,F403
from models.mobilenet import ConvHardswish, MobileNetV3Block  # noqa: F401
