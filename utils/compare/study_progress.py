"""How far a study is, over all its runs and epochs: a bar on a terminal, else a line for each run that ends."""

import sys
import time

from utils.compare.run_dir import RunFiles
from utils.log import LOGGER
from utils.log import progress as progress_bar


class StudyProgress:
    """Counts epochs of runs (a checkpoint's evaluation counts as one) and estimates the time left.

    runs: files by words such as "yolov5n_CBAM seed 1"; epochs: of each; slots: processes at a time.
    """

    def __init__(self, runs: dict[str, RunFiles], epochs: int, slots: int):
        self.runs, self.epochs, self.slots = runs, epochs, slots
        self.started = time.monotonic()
        self.done = {name: self._units(files) for name, files in runs.items()}
        self.at_start = sum(self.done.values())
        self.bar = progress_bar(None, total=self.total, description=self._words()) if sys.stderr.isatty() else None
        self.update()

    @property
    def total(self) -> int:
        return self.epochs * len(self.runs)

    def update(self) -> None:
        """Look at the files and move the bar."""
        self.done = {name: self._units(files) for name, files in self.runs.items()}
        if self.bar is not None:
            self.bar.set_description_str(self._words(), refresh=False)
            self.bar.bar_format = "{desc} {n_fmt}/{total_fmt} epochs {bar:10} " + self._left()
            self.bar.n = sum(self.done.values())
            self.bar.refresh()

    def ended(self, name: str) -> None:
        """Say how a run ended."""
        self.update()
        files = self.runs[name]
        if files.is_done():
            text = f"{name}: mAP50-95 {files.read_scores().map:.4f}"
            text += f" in {clock(files.seconds())}" if files.seconds() else ""
        else:
            text = f"{name}: FAILED: {files.error()}"
        self._say(f"{text} ({self._words()}, {self._left()})")

    def waits(self, name: str, holder: str) -> None:
        """Say that another process has a run."""
        self._say(f"{name}: {holder or 'another process'} is at it; waiting")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def seconds_left(self) -> float | None:
        """Return the time that the epochs left will take, by the time of those done since the start, whatever lies between
        them; before the first, by those of earlier starts; None while nothing is known. A run that stops early makes it less.
        """
        left = self.total - sum(self.done.values())
        done_here = sum(self.done.values()) - self.at_start
        if done_here:
            return (time.monotonic() - self.started) / done_here * left
        known = [seconds for files in self.runs.values() for seconds in files.epochs()]
        return sum(known) / len(known) * left / min(self.slots, max(self._open(), 1)) if known else None

    def _open(self) -> int:
        return sum(units < self.epochs for units in self.done.values())

    def _units(self, files: RunFiles) -> int:
        ended = files.is_done() or files.trained.exists() or files.error()
        return self.epochs if ended else min(len(files.epochs()), self.epochs)

    def _words(self) -> str:
        ended = sum(bool(files.is_done() or files.error()) for files in self.runs.values())
        return f"{ended} of {len(self.runs)} runs"

    def _left(self) -> str:
        seconds = self.seconds_left()
        return "time left unknown" if seconds is None else f"about {clock(seconds)} left"

    def _say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        LOGGER.info(text)
        if self.bar is not None:
            self.bar.refresh()


def clock(seconds: float) -> str:
    """Return a time in words: 42 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
