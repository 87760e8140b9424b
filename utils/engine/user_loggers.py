"""`--logger module:Class`: a user's logger watches a training. docs/loggers.md is its contract.

An error in a logger is one line with file and line, and the training goes on: results.csv has every figure anyway. What
cannot be loaded ends the run before its first step instead, since nothing is lost then.
"""

import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from utils.engine.hooks import VALIDATION_COLUMNS, result_row
from utils.engine.stages import RunFolder
from utils.engine.trainer import EpochReport, Hook, Trainer
from utils.errors import ConfigError, cut, nearest
from utils.files import is_file
from utils.log import LOGGER

METHODS = ("start", "after_epoch", "finish", "close")
_METRIC_KEYS = ("precision", "recall", "map50", "map")
_FILES = ("opt.yaml", "hyp.yaml", "results.csv", "metrics.json", "transfer.csv")


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is given before the first epoch.

    Attributes:
        folder: The run folder.
        config: The flags by name, as in opt.yaml.
        hyp: The hyperparameters by name, as in hyp.yaml.
        names: Class names by class id.
        first_epoch: The epoch that is trained next; above 0 in a run that is resumed.
        epochs: Epochs in all.
    """

    folder: Path
    config: Mapping[str, Any]
    hyp: Mapping[str, Any]
    names: Sequence[str]
    first_epoch: int
    epochs: int


@dataclass(frozen=True)
class LoggedResult:
    """What a logger is given at the end of a training that came to its end.

    Attributes:
        folder: The run folder.
        best: best.pt.
        figures: P, R, mAP50 and mAP50-95 of best.pt, by their names in results.csv.
        images: The figures and images in the run folder.
        files: Its tables and settings.
    """

    folder: Path
    best: Path
    figures: Mapping[str, float]
    images: Sequence[Path]
    files: Sequence[Path]

    @classmethod
    def of(cls, folder: Path) -> "LoggedResult":
        """Return what a run folder holds at the end of its training."""
        found: dict[str, float] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            metrics = json.loads(RunFolder(folder).metrics.read_text(encoding="utf-8"))["yolov5"]
            found = {name: float(metrics[key]) for name, key in zip(VALIDATION_COLUMNS, _METRIC_KEYS, strict=False)}
        images = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
        files = [folder / name for name in _FILES if (folder / name).is_file()]
        return cls(folder, RunFolder(folder).best, found, images, files)


class _Reported:
    """A block whose errors become one warning: where in the user's code, and what; the training goes on."""

    def __init__(self, name: str):
        self.name = name
        self.failed = False

    def __enter__(self) -> "_Reported":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.failed = isinstance(error, (Exception, SystemExit))  # a library's sys.exit() must not end a training
        if isinstance(error, (Exception, SystemExit)):
            LOGGER.warning(f"WARNING: --logger {self.name}: {_one_line(error)}; the training goes on")
        return self.failed


class UserLoggers(Hook):
    """The loggers of a training; only the first of several processes has any.

    Args:
        loggers: What `--logger` names, with an instance of each.
    """

    def __init__(self, loggers: Sequence[tuple[str, object]] = ()):
        self._loggers = tuple(loggers)
        self._calls = dict.fromkeys((name for name, _ in loggers), 0)
        self._failed = dict.fromkeys(self._calls, 0)

    @classmethod
    def of(cls, references: Sequence[str]) -> "UserLoggers":
        """Return the loggers that `--logger` names. Raises ConfigError if one cannot be loaded or made."""
        loggers = []
        for reference in references:
            made = load_logger_class(reference)
            try:
                loggers.append((reference, made()))
            except Exception as error:
                raise ConfigError(f"--logger {cut(reference)}: {_one_line(error)}") from error
        return cls(loggers)

    def begin(self, run: LoggedRun) -> None:
        """Give each logger the run before its first epoch."""
        self._call("start", run)

    def after_epoch(self, trainer: Trainer, report: EpochReport) -> None:
        figures = result_row(report)
        epoch = int(figures.pop("epoch"))
        if report.evaluation is None:  # its columns hold zeros
            figures = {name: value for name, value in figures.items() if name not in VALIDATION_COLUMNS}
        self._call("after_epoch", epoch, figures)

    def finish(self, result: LoggedResult) -> None:
        """Give each logger the results of a training that came to its end."""
        self._call("finish", result)

    def end(self) -> None:
        """Close each logger, whatever happened, and report how many calls failed."""
        self._call("close")
        for name, failed in self._failed.items():
            if failed:
                LOGGER.warning(
                    f"WARNING: --logger {name}: {failed} of {self._calls[name]} calls failed; results.csv is complete"
                )

    def _call(self, method: str, *values: object) -> None:
        for name, logger in self._loggers:
            function = getattr(logger, method, None)
            if function is None:
                continue
            with _Reported(name) as reported:
                function(*values)
            self._calls[name] += 1
            self._failed[name] += reported.failed


def load_logger_class(reference: str) -> Any:
    """Return the class that `--logger` names: `module:Class`, or `path/to/file.py:Class`.

    Raises ConfigError if there is none, or if it has none of the methods of a logger.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise ConfigError(f"--logger {cut(reference)}: expected module:Class or path/to/file.py:Class")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"--logger {cut(reference)}: {_one_line(error)}") from error
    found = getattr(module, name, None)
    if found is None:
        raise ConfigError(f"--logger {cut(reference)}: {place} has no {name}{nearest(name, vars(module))}")
    if not callable(found) or not any(hasattr(found, method) for method in METHODS):
        raise ConfigError(f"--logger {cut(reference)}: {name} has none of the methods {', '.join(METHODS)}")
    return found


def _module_of_file(path: Path) -> ModuleType:
    if not is_file(path):
        raise ConfigError(f"--logger {cut(path)}: no such file")
    name = f"yolo_logger_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ConfigError(f"--logger {cut(path)}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module


def absolute_references(references: Sequence[str]) -> tuple[str, ...]:
    """Return what `--logger` names with absolute paths of files, for a run that goes on in another folder."""
    parts = [reference.rpartition(":") for reference in references]
    return tuple(f"{Path(place).resolve() if place.endswith('.py') else place}:{name}" for place, _, name in parts)


def _one_line(error: BaseException) -> str:
    """Return "file.py:12: ValueError: what" of an error: the last line outside installed packages that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if "site-packages" not in frame.filename and frame.filename != __file__]
    own = [frame for frame in outside if not frame.filename.startswith("<")]
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}: "
    elif own:
        where = f"{own[-1].filename}:{own[-1].lineno}: "
    missing = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = f"; pip install {error.name.partition('.')[0]}, if it is a package"
    said = " ".join(str(error).split())
    return cut(f"{where}{type(error).__name__}{': ' if said else ''}{said}{missing}", 500)
