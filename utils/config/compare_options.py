"""The options of compare.py: what a study compares, and the flags of train.py that all its runs share.

A shared flag is train.py's own field: its default, bounds and help stand in options.py once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.flags import Options, flag, flag_fields, from_options
from utils.config.options import TrainConfig
from utils.config.yaml_files import read_yaml
from utils.errors import ConfigError
from utils.files import ROOT

STUDY_FILE = "study.yaml"
FREE = (
    "split",
    "device",
    "jobs",
    "workers",
    "cache",
    "download",
    "no_cache_labels",
    "title",
    "cost_seconds",
)  # may change on the way
PATHS = ("data", "hyp", "cfg", "weights", "plugin")
_PLACE = ("study", "project", "name")  # where a study lies: told by its folder, not by its yaml
_OWN_ONLY = (
    "cfg",
    "weights",
    "seeds",
    "control",
    "study",
    "split",
    "jobs",
    "title",
    "cost_seconds",
    "project",
    "name",
    "device",
)


def shared(name: str) -> Any:
    """Return a field that is train.py's flag `name`."""
    same = next(each for each in flag_fields(TrainConfig) if each.name == name)
    return flag(same.default, **vars(same.metadata["flag"]))


@dataclass(frozen=True)
class CompareConfig(Options):
    """What compare.py can be told. Field names are the flags with underscores."""

    cfg: tuple[str, ...] | None = flag(None, "model yamls to train and compare; the first is the baseline", many=True)
    weights: tuple[str, ...] | None = flag(
        None,
        "checkpoint that every training starts from; without --cfg: trained "
        "checkpoints to compare, the first is the baseline",
        many=True,
    )
    data: str = shared("data")
    seeds: tuple[int, ...] = flag(
        (3,), "one number N: seeds 0 to N-1; several: these seeds", "integer", many=True, low=0, high=2**32 - 1
    )
    control: bool = flag(False, "also train the baseline widened to the parameters of the largest variant", "switch")
    study: str = flag("", "a study's folder or yaml: run it, continue it with what is missing, or report it again")
    split: str = flag("val", "the pictures that decide: val, test or train", choices=("val", "test", "train"))
    jobs: int = flag(1, "trainings at a time, dealt out over the devices of --device", "integer", low=1)
    title: str = flag("", "heading of the report; '' takes the folder's name")
    cost_seconds: float = flag(20.0, "a variant's share of time for latency, and again for throughput", "number", low=0)
    project: str = flag(str(ROOT / "runs" / "compare"), "folder of the study folders")
    name: str = flag("", "the study's folder in --project, continued where it exists; '' makes a new one")
    device: str = flag("", "cpu, or CUDA device numbers such as 0 or 0,1; '' chooses")
    hyp: str = shared("hyp")
    epochs: int = shared("epochs")
    batch_size: int = flag(16, "images a batch", "integer", low=1)
    imgsz: int = shared("imgsz")
    rect: bool = shared("rect")
    noautoanchor: bool = shared("noautoanchor")
    cache: str | None = shared("cache")
    multi_scale: bool = shared("multi_scale")
    single_cls: bool = shared("single_cls")
    optimizer: str = shared("optimizer")
    workers: int = shared("workers")
    quad: bool = shared("quad")
    cos_lr: bool = shared("cos_lr")
    label_smoothing: float = shared("label_smoothing")
    patience: int = shared("patience")
    freeze: tuple[int | str, ...] = shared("freeze")
    deterministic: bool = shared("deterministic")
    amp: bool | None = shared("amp")
    download: bool = shared("download")
    labels: str = shared("labels")
    no_cache_labels: bool = shared("no_cache_labels")
    plugin: tuple[str, ...] = shared("plugin")
    attention_start: str = shared("attention_start")
    transfer: str = shared("transfer")
    require_transfer: float = shared("require_transfer")

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {
            "--seed": "a study takes --seeds: one number N for seeds 0 to N-1, or several seeds",
            "--image-weights": "it draws pictures by how badly a model does, so the variants would not see the same ones",
            "--resume": "a study continues with --study FOLDER",
            "--evolve": "hyperparameters found for one variant would favour it; evolve them with train.py on the baseline first",
        }

    def check(self) -> None:
        if self.study and (self.cfg or self.project != CompareConfig.project or self.name):
            raise ConfigError(
                f"--study {self.study}: names the folder and its models itself; leave out --cfg, --project and --name"
            )
        if self.cfg and len(self.checkpoints) > 1:
            raise ConfigError(
                f"--weights: {len(self.checkpoints)} checkpoints with --cfg; every training starts from "
                "the same one: give one, or leave out --cfg to compare the checkpoints"
            )
        if not self.cfg and self.control:
            raise ConfigError("--control: trains a widened baseline, so it needs --cfg")
        if self.control and len(self.yamls) == 1:
            raise ConfigError("--control: is as large as the largest variant, and --cfg names the baseline alone")
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"--seeds {' '.join(map(str, self.seeds))}: a seed stands twice")
        if self.seeds == (0,):
            raise ConfigError("--seeds 0: no seed at all; --seeds 1 is the one seed 0, --seeds 0 1 are two")
        self.training("", 0).check()

    @property
    def yamls(self) -> tuple[str, ...]:
        return self.cfg or ()

    @property
    def checkpoints(self) -> tuple[str, ...]:
        return self.weights or ()

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds of the study: 0 to N-1 for one number N. Checkpoints that are compared have one, 0."""
        if not self.cfg:
            return (0,)
        return tuple(range(self.seeds[0])) if len(self.seeds) == 1 else self.seeds

    def training(self, cfg: str, seed: int, **changes: object) -> TrainConfig:
        """Return the configuration of one training of the study."""
        common = {each.name: getattr(self, each.name) for each in flag_fields(self) if each.name not in _OWN_ONLY}
        weights = self.checkpoints[0] if self.checkpoints else ""
        own = {"cfg": cfg, "weights": weights, "seed": seed, "device": self.device.split(",")[0]}
        return TrainConfig(**{**common, **own, **changes})

    def described(self) -> dict[str, object]:
        """Return what a study yaml has to say: the options that differ from their defaults, data and seeds always."""
        values = self.as_dict()
        same = {each.name for each in flag_fields(self) if getattr(self, each.name) == each.default}
        always = ("data", "seeds", "epochs") if self.cfg else ("data",)
        return {
            name: value for name, value in values.items() if name not in _PLACE and (name not in same or name in always)
        }


def read_study(path: Path, asked: CompareConfig) -> CompareConfig:
    """Return the configuration in a study yaml, with those of the FREE options that `asked` gives.

    Relative paths in it are taken from the yaml's folder where something is there. Raises ConfigError that names
    the file for an unknown key, and for another option in `asked`, since the yaml decides.
    """
    content = read_yaml(path)
    for name in _PLACE:
        if name in content:
            raise ConfigError(
                f"{path}: {name}: is not said in a study yaml; the study lies in the folder of study.yaml"
            )
    given = {
        each.name: getattr(asked, each.name)
        for each in flag_fields(asked)
        if each.name in asked.given or getattr(asked, each.name) != each.default
    }
    for name in given:
        if name not in (*FREE, *_PLACE):
            raise ConfigError(
                f"--{name.replace('_', '-')}: {path} decides that; change it there, "
                f"or start a study of its own without --study"
            )
    try:
        config = from_options(CompareConfig, **_resolved(content, path.parent))
        return from_options(
            CompareConfig, **{**config.as_dict(), **{name: given[name] for name in FREE if name in given}}
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _resolved(content: Mapping[str, object], folder: Path) -> dict[str, object]:
    """The content with paths that exist beside the yaml written out."""

    def resolve(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [resolve(item) for item in value]
        beside = folder / str(value)
        return str(beside.resolve()) if value and beside.exists() else value

    return {str(name): resolve(value) if name in PATHS else value for name, value in content.items()}
