"""Every layer and attention block under one import, and the classes around a network that YOLOv5's scripts import.

from models.common import C3, CBAM, CoTAttention, DetectMultiBackend
"""

from typing import TYPE_CHECKING, Any

from models.attention import *  # noqa: F401,F403
from models.c3_attention import C3Attention  # noqa: F401
from models.layers import *  # noqa: F401,F403
from models.mobilenet import ConvHardswish, MobileNetV3Block  # noqa: F401
from utils.compat.names import resolve

if TYPE_CHECKING:
    from utils.compat.auto_shape import AutoShape  # noqa: F401
    from utils.compat.hub_detections import HubDetections as Detections  # noqa: F401
    from utils.compat.multi_backend import DetectMultiBackend  # noqa: F401


def __getattr__(name: str) -> Any:
    return resolve(__name__, name)


def autopad(k: int | list[int], p: int | list[int] | None = None, d: int = 1) -> int | list[int]:
    """Return the padding that keeps height and width at stride 1.

    Args:
        k: The kernel's side, or both.
        p: The padding, if it is given.
        d: Dilation.

    Returns:
        One number, or two.
    """
    if p is not None:
        return p
    return (d * (k - 1) + 1) // 2 if isinstance(k, int) else [(d * (side - 1) + 1) // 2 for side in k]
