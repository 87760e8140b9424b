"""The options of the converter, `python -m utils.datasets.convert`."""

from dataclasses import dataclass

from utils.config.flags import Options, flag
from utils.errors import ConfigError

FORMATS = ("voc", "coco", "labelme", "cvat")


@dataclass(frozen=True)
class ConvertConfig(Options):
    """The flags of the converter. Field names are the flags with underscores."""

    format: str = flag("", "format of the annotations; may also stand without the flag", choices=FORMATS)
    source: str = flag("", "annotation file, or folder of them and of the images; may also stand without the flag")
    output: str = flag("", "folder of the converted dataset; it must not exist, or be empty")
    images: str = flag("", "folder of the images if they are not below the source")
    split: tuple[float, ...] | None = flag(
        None,
        "shares of train, val and test, such as 0.8 0.1 0.1; without it the source's own splits if it names train and "
        "val, else 0.8 0.1 0.1",
        "number",
        many=True,
        low=0,
    )
    seed: int = flag(0, "decides which image is in which split, with the image's bytes", "integer", low=0)
    names: tuple[str, ...] | None = flag(
        None,
        "classes in the order of their numbers, or one .txt or .yaml file of them; objects of others are left out",
        many=True,
    )
    boxes: bool = flag(False, "write boxes where there are outlines", "switch")
    difficult: bool = flag(False, "keep objects marked as difficult, which are left out as in v6.1", "switch")
    background: bool = flag(False, "take images without annotations as images without objects", "switch")
    one_based: bool = flag(
        False, "VOC corners are pixels counted from 1, both inside the box, as in the original VOC sets", "switch"
    )
    link: bool = flag(False, "link images instead of copying them", "switch")

    def check(self) -> None:
        for name, value, example in (
            ("format", self.format, f"one of {', '.join(FORMATS)}"),
            ("source", self.source, "the annotations"),
            ("output", self.output, "--output and a new folder"),
        ):
            if not value:
                raise ConfigError(f"no {name} given; give {example}")
        if self.split is not None and (len(self.split) > 3 or abs(sum(self.split) - 1) > 1e-6):
            given = " ".join(f"{share:g}" for share in self.split)
            raise ConfigError(f"--split {given}: expected up to three shares, of train, val and test, with sum 1")
        if self.one_based and self.format != "voc":
            raise ConfigError(f"--one-based: is about VOC files, not {self.format}; leave it out")
