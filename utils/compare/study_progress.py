"""Progress of a study over all its runs and epochs: a bar on a terminal, else one line per run that ends."""

import sys
import time

from utils.compare.run_dir import RunFiles
from utils.log import LOGGER
from utils.log import progress as progress_bar


class StudyProgress:
    """Counts the epochs of all runs and estimates the time left.

    Args:
        runs: Files by the name of each run, such as "yolov5n_CBAM seed 1".
        epochs: Epochs per run; the evaluation of a checkpoint counts as one.
        slots: Processes at a time.
    """

    def __init__(self, runs: dict[str, RunFiles], epochs: int, slots: int):
        self.runs, self.epochs, self.slots = runs, epochs, slots
        self.started = time.monotonic()
        self.waits: dict[str, str] = {}  # by name of run: who was logged as its holder
        self.done = {name: self._epochs_done(files) for name, files in runs.items()}
        self.at_start = sum(self.done.values())
        self.bar = progress_bar(None, total=self.total, description=self._runs_text()) if sys.stderr.isatty() else None
        self.update()

    @property
    def total(self) -> int:
        return self.epochs * len(self.runs)

    def update(self) -> None:
        """Read the files and move the bar."""
        self.done = {name: self._epochs_done(files) for name, files in self.runs.items()}
        if self.bar is not None:
            self.bar.set_description_str(self._runs_text(), refresh=False)
            self.bar.bar_format = "{desc} {n_fmt}/{total_fmt} epochs {bar:10} " + self._time_left_text()
            self.bar.n = sum(self.done.values())
            self.bar.refresh()

    def log_end(self, name: str) -> None:
        """Log how the run `name` ended."""
        self.update()
        files = self.runs[name]
        if files.is_done():
            seconds = files.training_seconds()
            text = f"{name}: mAP50-95 {files.read_scores().map:.4f}"
            text += f" in {duration_text(seconds)}" if seconds else ""
        else:
            text = f"{name}: FAILED: {files.error()}"
        self._log(f"{text} ({self._runs_text()}, {self._time_left_text()})")

    def log_wait(self, name: str, holder: str) -> None:
        """Log that another process does a run, once per holder: a wait may last for hours.

        Args:
            name: Name of the run.
            holder: Who holds its lock file, "" if that is not known.
        """
        if self.waits.get(name) != holder:
            self.waits[name] = holder
            self._log(f"{name}: locked by {holder or 'another process'}; waiting")

    def close(self) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def seconds_left(self) -> float | None:
        """Return an estimate of the seconds left, None while there is nothing to estimate from.

        It is extrapolated from the epochs done since the start, with all that lies between them; before the first of
        them, from those of earlier starts. Runs that stop early make it shorter.
        """
        left = self.total - sum(self.done.values())
        done_here = sum(self.done.values()) - self.at_start
        if done_here:
            return (time.monotonic() - self.started) / done_here * left
        known = [seconds for files in self.runs.values() for seconds in files.epoch_seconds()]
        return sum(known) / len(known) * left / min(self.slots, max(self._open_runs(), 1)) if known else None

    def _open_runs(self) -> int:
        return sum(done < self.epochs for done in self.done.values())

    def _epochs_done(self, files: RunFiles) -> int:
        ended = files.is_done() or files.trained.exists() or files.error()
        return self.epochs if ended else min(len(files.epoch_seconds()), self.epochs)

    def _runs_text(self) -> str:
        ended = sum(bool(files.is_done() or files.error()) for files in self.runs.values())
        return f"{ended} of {len(self.runs)} runs"

    def _time_left_text(self) -> str:
        seconds = self.seconds_left()
        return "time left unknown" if seconds is None else f"about {duration_text(seconds)} left"

    def _log(self, text: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        LOGGER.info(text)
        if self.bar is not None:
            self.bar.refresh()


def duration_text(seconds: float) -> str:
    """Return a duration in words: 42 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
