"""A model of YOLOv5's layers as a checkpoint that YOLOv5 itself loads: its classes and attributes, our tensors.

YOLOv5's files are pickled modules. The classes of YOLOv5 are not here, and not needed: a module is written as a
`PickledObject` of its class's name and of the attributes that YOLOv5's forward passes read.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from models import layers
from models.graph.architecture import SECTIONS, Architecture
from models.head import Detect
from models.norms import BatchNorm
from models.yolo import Model
from utils.checkpoint.pickle_writer import write_pickled
from utils.checkpoint.record import Checkpoint
from utils.checkpoint.restricted import PickledObject
from utils.errors import CheckpointError

DETECTOR = "models.yolo.Model"  # v6.1's name, which later versions keep for DetectionModel
_HOOKS = (  # of every module, those that torch has had since 1.6; later ones are added by torch when it reads
    "_backward_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_OURS: dict[type[nn.Module], type[nn.Module]] = {BatchNorm: nn.BatchNorm2d, layers.SiLU: nn.SiLU}  # ours -> torch's
_RESIDUAL: Callable[[Any], dict] = lambda module: {"add": bool(module.residual)}  # noqa: E731
_ATTRIBUTES: dict[type[nn.Module], Callable[[Any], dict]] = {  # of YOLOv5's classes, beside tensors and modules
    layers.Bottleneck: _RESIDUAL,
    layers.CrossConv: _RESIDUAL,
    layers.Concat: lambda module: {"d": module.d},
    layers.Contract: lambda module: {"gain": module.gain},
    layers.Expand: lambda module: {"gain": module.gain},
    layers.TransformerBlock: lambda module: {
        "c2": module.linear.out_features,
        **({"conv": None} if module.conv is None else {}),
    },
}
_PLAIN = (
    layers.BottleneckCSP,
    layers.C3,
    layers.C3Ghost,
    layers.C3SPP,
    layers.C3TR,
    layers.Conv,
    layers.DWConv,
    layers.Focus,
    layers.GhostBottleneck,
    layers.GhostConv,
    layers.SPP,
    layers.SPPF,
    layers.TransformerLayer,
)
_NAMES: dict[type[nn.Module], str] = {
    Detect: "models.yolo.Detect",
    layers.MixConv2d: "models.experimental.MixConv2d",
    **{kind: f"models.common.{kind.__name__}" for kind in (*_PLAIN, *_ATTRIBUTES)},
}


def write_yolov5_file(checkpoint: Checkpoint, model: Model, architecture: Architecture, path: Path) -> Path:
    """Write a model of YOLOv5's layers as YOLOv5 writes its own, in the precision of the checkpoint.

    Args:
        checkpoint: Its weights and names.
        model: The model built from it, not fused.
        architecture: Its rows for YOLOv5.
        path: The file; its folder exists.

    Returns:
        `path`.

    Raises:
        CheckpointError: If the file cannot be written, or a module holds what no file can.
    """
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": _Converter(checkpoint.state, checkpoint.source).detector(checkpoint, model, architecture),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "opt": None,
        "date": checkpoint.date or None,
    }
    try:
        return write_pickled(content, path)
    except TypeError as error:
        raise CheckpointError(f"{checkpoint.source}: cannot be written as a file of YOLOv5: {error}") from None


def yaml_content(architecture: Architecture) -> dict[str, Any]:
    """Return the content of a yaml: settings, and rows by section."""
    return {
        **architecture.settings,
        **{
            section: [
                [row.sources, row.repeats, row.block, row.args] for row in architecture.rows if row.section == section
            ]
            for section in SECTIONS
        },
    }


@dataclass(frozen=True)
class _Converter:
    """Modules of ours as objects of YOLOv5's classes, with the tensors of a state dict.

    Attributes:
        state: The tensors by name.
        source: The checkpoint's file, for messages.
    """

    state: Mapping[str, Tensor]
    source: str

    def detector(self, checkpoint: Checkpoint, model: Model, architecture: Architecture) -> PickledObject:
        stride = model.stride.clone()
        network = self.module(model.model, "model.")
        for layer, converted in zip(model.layers, network.state["_modules"].values(), strict=True):
            kind = cast("nn.Module", layer)
            named = kind[0] if isinstance(kind, nn.Sequential) else kind
            converted.state.update(i=layer.i, f=layer.f, type=self.name(named), np=layer.np)
        return PickledObject(
            DETECTOR,
            (),
            {
                **_module_state(model.training),
                "_modules": OrderedDict(model=network),
                "yaml": yaml_content(architecture),
                "save": list(model.save),
                "names": list(checkpoint.names),
                "nc": checkpoint.nc,
                "inplace": True,
                "stride": stride,
            },
        )

    def module(self, module: nn.Module, prefix: str) -> PickledObject:
        """Return a module and those in it as objects of YOLOv5's or torch's classes."""
        return PickledObject(
            self.name(module),
            (),
            {
                **_module_state(module.training),
                "_parameters": OrderedDict(
                    (name, None if value is None else nn.Parameter(self.state[f"{prefix}{name}"], requires_grad=False))
                    for name, value in module._parameters.items()
                ),
                "_buffers": OrderedDict((name, self.state[f"{prefix}{name}"]) for name in module._buffers),
                "_modules": OrderedDict(
                    (name, self.module(child, f"{prefix}{name}."))
                    for name, child in module._modules.items()
                    if child is not None
                ),
                **_attributes(module),
            },
        )

    def name(self, module: nn.Module) -> str:
        """Return the dotted name of the class that a module has in YOLOv5."""
        kind = _OURS.get(type(module), type(module))
        if kind.__module__.startswith("torch.nn.modules."):
            return f"{kind.__module__}.{kind.__qualname__}"
        if kind not in _NAMES:
            raise CheckpointError(f"{self.source}: YOLOv5 has no {kind.__name__}")
        return _NAMES[kind]


def _module_state(training: bool) -> dict[str, Any]:
    """Return the attributes of every nn.Module, without members."""
    return {
        "training": training,
        "_parameters": OrderedDict(),
        "_buffers": OrderedDict(),
        "_non_persistent_buffers_set": set(),
        **{name: OrderedDict() for name in _HOOKS},
        "_is_full_backward_hook": None,
        "_modules": OrderedDict(),
    }


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module of YOLOv5's or torch's class holds beside tensors and modules."""
    if isinstance(module, Detect):
        return {
            "nc": module.nc,
            "no": module.no,
            "nl": module.nl,
            "na": module.na,
            "grid": [torch.zeros(1) for _ in range(module.nl)],  # made anew for the first image
            "anchor_grid": [torch.zeros(1) for _ in range(module.nl)],
            "inplace": True,
            "stride": module.stride.clone(),
        }
    if type(module) in _OURS or type(module).__module__.startswith("torch.nn.modules."):
        return {
            name: value
            for name, value in vars(module).items()
            if name not in _OF_EVERY_MODULE and name not in ("i", "f", "type", "np", "repeats", "arguments")
        }
    return _ATTRIBUTES.get(type(module), lambda _: {})(module)
