"""Entry points for torch.hub: YOLOv5 v6.1's, and one for every variant's yaml.

    model = torch.hub.load("path/to/this/folder", "custom", path="best.pt", source="local")
    model("bus.jpg").print()

Nothing is downloaded unless `download=True` is given. docs/python.md shows what the results can do.
"""

# torch.hub offers every callable that this module has without an underscore, so names of others are reached by module
import functools
import pathlib
import sys
import typing

dependencies = ["torch", "torchvision", "numpy", "cv2", "PIL", "yaml"]
_FOLDER = pathlib.Path(__file__).resolve().parent


def custom(
    path: typing.Any = "path/to/model.pt",
    autoshape: bool = True,
    _verbose: bool = True,
    device: typing.Any = None,
    verbose: bool | None = None,
    download: bool = False,
) -> typing.Any:
    """Load your own weights: a checkpoint (.pt), a file that export.py made of one, or a list of them (an ensemble).

    Args:
        path: The file or files.
        autoshape: Take images of any kind and size and answer with results; False returns the network, which can be
            trained further if it is a checkpoint's.
        _verbose: Log what is loaded.
        device: Such as "cpu" or 0; None is the first CUDA device or, without one, the CPU.
        verbose: Replaces `_verbose`.
        download: Fetch published weights, or images at addresses, that are not on disk.

    Returns:
        The model.
    """
    _require_own_packages()
    from utils.compat.hub_models import load_custom

    return load_custom(path, autoshape, _verbose if verbose is None else verbose, device, download)


def __dir__() -> list[str]:
    """Return the names of this module, the entry points among them."""
    return sorted({*globals(), *_yamls()})


def __getattr__(name: str) -> typing.Any:
    if name not in _yamls():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _entry_point(name)


@functools.cache
def _yamls() -> frozenset[str]:
    """The names of the yamls that are entry points: the sizes of YOLOv5, and the variants of models/zoo.yaml."""
    models = _FOLDER / "models"
    files = [
        *models.glob("yolov5[nsmlx].yaml"),
        *models.glob("hub/yolov5[nsmlx]6.yaml"),
        *models.glob("yolov5*_*.yaml"),
    ]
    return frozenset(file.stem for file in files)


@functools.cache
def _entry_point(name: str) -> typing.Any:
    """Return the function that loads a model by the name of its yaml."""

    def load(
        pretrained: bool = True,
        channels: int = 3,
        classes: int = 80,
        autoshape: bool = True,
        _verbose: bool = True,
        device: typing.Any = None,
        verbose: bool | None = None,
        download: bool = False,
    ) -> typing.Any:
        _require_own_packages()
        from utils.compat.hub_models import load_named

        shown = _verbose if verbose is None else verbose
        return load_named(name, pretrained, channels, classes, autoshape, shown, device, download)

    size, _, variant = name.partition("_")
    load.__name__ = load.__qualname__ = name
    scale = size.removeprefix("yolov5") or "l"
    what, transferred = f"YOLOv5 {scale}", ""
    if variant:
        what, transferred = f"the variant {variant} of {what}", " of the size, transferred layer by layer"
    load.__doc__ = f"""Load {what}.

    Args:
        pretrained: Start from the official weights{transferred}.
        channels: Channels of an image.
        classes: Number of classes; other numbers than 80 leave the head's last layer random.
        autoshape: Take images of any kind and size and answer with results; False returns the network.
        _verbose: Log what is loaded.
        device: Such as "cpu" or 0; None is the first CUDA device or, without one, the CPU.
        verbose: Replaces `_verbose`.
        download: Fetch weights, or images at addresses, that are not on disk.

    Returns:
        The model.
    """
    return load


def _require_own_packages() -> None:
    """Raise ImportError if other packages `models` or `utils` are loaded already: one program holds one of each."""
    for name in ("models", "utils"):
        loaded = sys.modules.get(name)
        places = [*getattr(loaded, "__path__", ()), getattr(loaded, "__file__", None) or ""]
        if loaded is not None and not any(pathlib.Path(place).resolve() == _FOLDER / name for place in places):
            raise ImportError(
                f"another module {name!r} is loaded already ({next(filter(None, places), 'built in')}), and {_FOLDER} "
                "has one too; load the model in a program of its own, or rename yours"
            )
