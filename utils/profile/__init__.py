"""The cost of a model: operations by two counters, memory and time per layer.

`python -m utils.profile` prints it. models.graph.flops counts operations, memory.py bytes, timing.py milliseconds;
layer_profile.py has one row per layer.
"""

from models.graph.flops import describe_gflops, flop_counter, flops, thop_gflops
from utils.profile.components import attention_modules, for_inference
from utils.profile.layer_profile import Figures, LayerProfile, ModelProfile, profile_layers, render
from utils.profile.memory import LiveBytes, inference_peak, kept_for_backward, training_peak
from utils.profile.timing import layer_times, log_layer_times

__all__ = [
    "Figures",
    "LayerProfile",
    "LiveBytes",
    "ModelProfile",
    "attention_modules",
    "describe_gflops",
    "flop_counter",
    "flops",
    "for_inference",
    "inference_peak",
    "kept_for_backward",
    "layer_times",
    "log_layer_times",
    "profile_layers",
    "render",
    "thop_gflops",
    "training_peak",
]
