"""The options of compare.py: what a study compares, and the flags of train.py that all its runs share.

A shared flag is train.py's own field: its default, bounds and help are defined once, in options.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.flags import Options, flag, flag_fields, from_options
from utils.config.option_records import Slicing
from utils.config.options import TrainConfig
from utils.config.slice_flags import (
    overlap_flag,
    slice_flag,
    slice_match_flag,
    slice_merge_flag,
    slice_only_flag,
    slice_thres_flag,
)
from utils.config.yaml_files import read_yaml
from utils.errors import ConfigError, cut
from utils.files import ROOT, exists

STUDY_FILE = "study.yaml"
# Options that may change between the starts of a study.
CHANGEABLE = (
    "split",
    "device",
    "jobs",
    "workers",
    "cache",
    "download",
    "no_cache_labels",
    "title",
    "cost_seconds",
    "font",
    "launcher",
    "launch_options",
    "runtimes",
    "int8",
    "logger",
)
PATHS = ("data", "hyp", "recipes", "cfg", "weights", "plugin", "font", "int8", "teacher")
_LOCATION = ("study", "project", "name")  # where a study is: given by its folder, not by its yaml
_OF_A_START = ("launcher", "launch_options")  # who executes it this time: given on the command line only
LAUNCHERS = ("", "submitit")
TORCH = "torch"
RUNTIMES = (TORCH, "onnx", "openvino", "torchscript", "ncnn")
EIGHT_BIT_RUNTIMES = ("onnx", "openvino")  # whose files can be quantized
OF_DATA = "--data"  # what a bare --int8 is
SLICING = ("slice", "overlap", "slice_merge", "slice_match", "slice_thres", "slice_only")  # of evaluation alone
_NOT_OF_TRAINING = (
    "cfg",
    "weights",
    "recipes",
    "pieces",
    "seeds",
    "control",
    "study",
    "split",
    "jobs",
    "title",
    "cost_seconds",
    "runtimes",
    "int8",
    "project",
    "name",
    "device",
    *SLICING,
    *_OF_A_START,
)


def train_flag(name: str) -> Any:
    """Return a field that is train.py's flag `name`."""
    same = next(each for each in flag_fields(TrainConfig) if each.name == name)
    return flag(same.default, **vars(same.metadata["flag"]))


@dataclass(frozen=True)
class CompareConfig(Options):
    """The options of compare.py. Field names are the flags with underscores."""

    cfg: tuple[str, ...] | None = flag(None, "model yamls to train and compare; the first is the baseline", many=True)
    weights: tuple[str, ...] | None = flag(
        None,
        "checkpoint that every training starts from; without --cfg: trained "
        "checkpoints to compare, the first is the baseline",
        many=True,
    )
    recipes: tuple[str, ...] | None = flag(
        None,
        "hyperparameter files to compare on the one model of --cfg, each a training per seed; the first is the control",
        many=True,
    )
    pieces: tuple[str, ...] | None = flag(
        None,
        "changes of --hyp to compare with it on the one model of --cfg: KEY=VALUE,KEY=VALUE for each recipe",
        many=True,
    )
    data: str = train_flag("data")
    seeds: tuple[int, ...] = flag(
        (3,), "one number N: seeds 0 to N-1; several numbers: these seeds", "integer", many=True, low=0, high=2**32 - 1
    )
    control: bool = flag(
        False,
        "also train a parameter-matched baseline, widened to the parameters of the largest variant",
        "switch",
    )
    study: str = flag("", "folder or yaml of a study: run it, continue it with what is missing, or report it again")
    split: str = flag(
        "val", "split on which the variants are compared: val, test or train", choices=("val", "test", "train")
    )
    jobs: int = flag(1, "runs at a time, distributed over the devices of --device", "integer", low=1)
    launcher: str = flag(
        "",
        "submitit: --jobs workers as jobs of Slurm, or of this machine without Slurm; '' executes the runs itself",
        choices=LAUNCHERS,
    )
    launch_options: tuple[str, ...] | None = flag(
        None,
        "KEY=VALUE for submitit, such as cluster=slurm timeout_min=240 gpus_per_node=1 slurm_partition=gpu",
        many=True,
    )
    title: str = flag("", "heading of the report; '' is the folder's name")
    cost_seconds: float = flag(
        20.0, "seconds per variant for measuring latency, and as many for throughput", "number", low=0
    )
    runtimes: tuple[str, ...] | None = flag(
        None,
        "also export each variant, and report mAP, latency, memory and file size in these runtimes beside torch",
        many=True,
        choices=RUNTIMES,
    )
    int8: str = flag(
        "",
        "--runtimes onnx, openvino: also as 8-bit files, calibrated on the train images of this dataset yaml (bare: of "
        "--data)",
        const=OF_DATA,
    )
    project: str = flag(str(ROOT / "runs" / "compare"), "folder of the study folders")
    name: str = flag("", "folder of the study in --project, continued if it exists; '' makes a new one")
    device: str = flag("", "cpu, or CUDA device numbers such as 0 or 0,1; '' is every GPU, or cpu without one")
    hyp: str = train_flag("hyp")
    hyp_unknown: str = train_flag("hyp_unknown")
    epochs: int = train_flag("epochs")
    batch_size: int = flag(16, "images per batch", "integer", low=1)
    imgsz: int = train_flag("imgsz")
    rect: bool = train_flag("rect")
    noautoanchor: bool = train_flag("noautoanchor")
    cache: str | None = train_flag("cache")
    multi_scale: bool = train_flag("multi_scale")
    single_cls: bool = train_flag("single_cls")
    optimizer: str = train_flag("optimizer")
    workers: int = train_flag("workers")
    quad: bool = train_flag("quad")
    cos_lr: bool = train_flag("cos_lr")
    label_smoothing: float = train_flag("label_smoothing")
    patience: int = train_flag("patience")
    freeze: tuple[int | str, ...] = train_flag("freeze")
    deterministic: bool = train_flag("deterministic")
    amp: bool | None = train_flag("amp")
    amp_type: str = train_flag("amp_type")
    download: bool = train_flag("download")
    rect_pad: float = train_flag("rect_pad")
    labels: str = train_flag("labels")
    no_cache_labels: bool = train_flag("no_cache_labels")
    plugin: tuple[str, ...] = train_flag("plugin")
    logger: tuple[str, ...] = train_flag("logger")
    font: str = train_flag("font")
    lang: str = train_flag("lang")
    attention_start: str = train_flag("attention_start")
    transfer: str = train_flag("transfer")
    teacher: str = train_flag("teacher")
    require_transfer: float = train_flag("require_transfer")
    slice: int = slice_flag()
    overlap: float = overlap_flag()
    slice_merge: str = slice_merge_flag()
    slice_match: str = slice_match_flag()
    slice_thres: float = slice_thres_flag()
    slice_only: bool = slice_only_flag()

    @classmethod
    def refused(cls) -> dict[str, str]:
        return {
            "--seed": "a study takes --seeds: one number N for seeds 0 to N-1, or several seeds",
            "--image-weights": "it draws images by how badly a model does, so variants would not see the same ones",
            "--resume": "a study continues with --study FOLDER",
            "--evolve": "hyperparameters evolved on one variant favor it; evolve them with train.py on the baseline",
        }

    @classmethod
    def retired(cls) -> Mapping[str, str]:
        return TrainConfig.retired()

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
            raise ConfigError("--control: trains a parameter-matched baseline, so it needs --cfg")
        if self.control and len(self.yamls) == 1:
            raise ConfigError(
                "--control: matches the parameters of the largest variant, and --cfg names the baseline alone; "
                "name a variant too"
            )
        self._check_recipes()
        if self.launch_options and not self.launcher:
            raise ConfigError(
                "--launch-options: are for --launcher submitit, which is not given; add it, or leave them out"
            )
        for text in self.launch_options or ():
            if not text.partition("=")[0].isidentifier() or "=" not in text:
                raise ConfigError(f"--launch-options {text}: expected KEY=VALUE, such as timeout_min=240")
        Slicing.of(self)
        self._check_eight_bit()
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"--seeds {' '.join(map(str, self.seeds))}: a seed is given twice; name each once")
        if self.seeds == (0,):
            raise ConfigError("--seeds 0: no seed at all; --seeds 1 is the single seed 0, --seeds 0 1 are two")
        self.training_config("", 0).check()

    def _check_eight_bit(self) -> None:
        if self.int8 and not set(EIGHT_BIT_RUNTIMES) & set(self.runtimes or ()):
            raise ConfigError(
                f"--int8: 8-bit files are those of {' and '.join(EIGHT_BIT_RUNTIMES)}; name one in --runtimes"
            )

    def _check_recipes(self) -> None:
        if not self.compares_recipes:
            return
        name = "--recipes" if self.recipes else "--pieces"
        if len(self.yamls) != 1:
            raise ConfigError(
                f"{name}: compares recipes on one model, and --cfg names {len(self.yamls) or 'none'}; "
                "give one, and compare models in a study of their own"
            )
        if self.recipes and (self.pieces or self.hyp != CompareConfig.hyp):
            raise ConfigError(
                f"--recipes: its first file is the control, so {'--pieces' if self.pieces else '--hyp'} has no place "
                "beside it; --hyp FILE --pieces KEY=VALUE compares changes of one file"
            )
        if self.recipes and len(self.recipes) == 1:
            raise ConfigError(
                "--recipes: one file has nothing to be compared with; name the control first, then others"
            )

    @property
    def compares_recipes(self) -> bool:
        """Whether the study varies the recipe, on one model."""
        return bool(self.recipes or self.pieces)

    @property
    def planned_count(self) -> int:
        """Variants of the study without a parameter-matched baseline."""
        if self.compares_recipes:
            return len(self.recipes or ()) or 1 + len(self.pieces or ())
        return len(self.cfg or self.checkpoints)

    @property
    def yamls(self) -> tuple[str, ...]:
        return self.cfg or ()

    @property
    def checkpoints(self) -> tuple[str, ...]:
        return self.weights or ()

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds of the study: 0 to N-1 for one number N. Checkpoints have the single seed 0."""
        if not self.cfg:
            return (0,)
        return tuple(range(self.seeds[0])) if len(self.seeds) == 1 else self.seeds

    @property
    def calibration(self) -> str:
        """The dataset yaml that 8-bit files are calibrated on, "" without --int8."""
        return self.data if self.int8 == OF_DATA else self.int8

    def training_config(self, cfg: str, seed: int, **changes: object) -> TrainConfig:
        """Return the configuration of one training of the study.

        Args:
            cfg: The model yaml.
            seed: The seed.
            **changes: Further options of train.py.

        Returns:
            The configuration, on the first of the study's devices unless `changes` name another.
        """
        values = vars(self)
        common = {each.name: values[each.name] for each in flag_fields(self) if each.name not in _NOT_OF_TRAINING}
        weights = self.checkpoints[0] if self.checkpoints else ""
        own = {"cfg": cfg, "weights": weights, "seed": seed, "device": self.device.split(",")[0]}
        return TrainConfig(**{**common, **own, **changes})

    def study_content(self) -> dict[str, object]:
        """Return the content of a study yaml: options that differ from their defaults; data and seeds always."""
        values = self.as_dict()
        same = {each.name for each in flag_fields(self) if vars(self)[each.name] == each.default}
        always = ("data", "seeds", "epochs") if self.cfg else ("data",)
        return {
            name: value
            for name, value in values.items()
            if name not in (*_LOCATION, *_OF_A_START) and (name not in same or name in always)
        }


def read_study(path: Path, requested: CompareConfig) -> CompareConfig:
    """Return the configuration in a study yaml.

    Relative paths in it are taken from the yaml's folder if they exist there.

    Args:
        path: The yaml.
        requested: The command line; its CHANGEABLE options replace the yaml's.

    Returns:
        The configuration of the study.

    Raises:
        ConfigError: The yaml has an unknown key or a bad value, or `requested` gives an option that only the yaml
            may give. The message names the file.
    """
    content = read_yaml(path)
    for name in _LOCATION:
        if name in content:
            raise ConfigError(
                f"{cut(path)}: {name}: is no option of a study yaml; the study is in the folder of study.yaml"
            )
    for name in _OF_A_START:
        if name in content:
            raise ConfigError(
                f"{cut(path)}: {name}: is no option of a study yaml; give --{name.replace('_', '-')} instead"
            )
    values = vars(requested)
    given = {
        each.name: values[each.name]
        for each in flag_fields(requested)
        if each.name in requested.given or values[each.name] != each.default
    }
    for name in given:
        if name not in (*CHANGEABLE, *_LOCATION):
            raise ConfigError(
                f"--{name.replace('_', '-')}: is set in {path}; change it there, or start another study without --study"
            )
    try:
        config = from_options(CompareConfig, **_resolve_paths(content, path.parent))
        changed = {name: given[name] for name in CHANGEABLE if name in given}
        return from_options(CompareConfig, **{**config.as_dict(), **changed})
    except ConfigError as error:
        raise ConfigError(f"{cut(path)}: {error}") from None


def _resolve_paths(content: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Return the content of a study yaml, with absolute paths for files that exist in its folder."""

    def resolve(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [resolve(item) for item in value]
        beside = folder / str(value) if isinstance(value, str | Path) and value else None
        return str(beside.resolve()) if beside and exists(beside) else value

    return {str(name): resolve(value) if name in PATHS else value for name, value in content.items()}
