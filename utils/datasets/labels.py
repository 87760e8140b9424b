"""The labels of a split: found, checked, reported, and cached for the next run.

Nothing is dropped in silence: what could not be used is counted in the summary line, named in a csv, and the user's
files stay as they are.
"""

import csv
import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from utils.config import SplitOptions
from utils.config.label_reading import LabelReading
from utils.datasets import class_numbers, label_cache
from utils.datasets.label_files import label_path, list_images
from utils.datasets.label_problems import BOX_READ, CLIPPED, DROPPED, LEFT_OUT, NOTES, REFUSED, USED, Problem
from utils.datasets.label_store import LabelStore
from utils.datasets.long_rows import LongRows
from utils.datasets.row_reader import RowRules, UnknownClass, interpret, read_rows
from utils.errors import DataError
from utils.files import write_text_atomically
from utils.images import inspect_image
from utils.log import LOGGER, progress
from utils.stop_signals import ENDING_SIGNALS
from utils.threads import usable_cores
from utils.types import Labels

CHUNK = 128  # images per task of the scan
PROCESSES_FROM = 2000  # images; below, starting processes costs more than they bring
SHOWN = 5  # problems shown on the console
ChunkScan = Callable[[list[str]], "Iterable[ScannedImage]"]


@dataclass(frozen=True)
class ScannedImage:
    """The result of checking one image and its label file.

    Attributes:
        size: Native (height, width); None if the image is left out.
        labels: Its objects.
        state: "found", "missing", "empty" or "corrupt".
        problems: What is wrong.
        unknown: Rows whose class the data yaml does not have.
        long: What rows of more than five values have in common.
    """

    size: tuple[int, int] | None
    labels: Labels
    state: str
    problems: tuple[Problem, ...] = ()
    unknown: tuple[UnknownClass, ...] = ()
    long: LongRows = LongRows()


def read_labels(
    sources: Path | str | Sequence[Path | str],
    nc: int,
    options: SplitOptions | None = None,
    *,
    names: Sequence[str] = (),
    report_dir: Path | str | None = None,
    split: str = "data",
    require: bool = True,
    keypoints: tuple[int, int] | None = None,
) -> LabelStore:
    """Return the labels of all images of a split, checked.

    Args:
        sources: Folders or .txt lists of images, one or several.
        nc: Number of classes.
        options: `labels`, `single_cls` and `cache_labels` are read; `SplitOptions()` if None.
        names: Class names, for rows that begin with one; a cache made with other names does not fit.
        report_dir: Folder that gets labels_<split>.csv if there are problems.
        split: The split's name in messages.
        require: Whether no label at all is an error.
        keypoints: Number of key points of each row and numbers of each, if the data yaml gives them.

    Returns:
        The labels of every image that can be used.

    Raises:
        DataError: If nothing can be used, for a class that is not in 0..nc-1, whatever the policy, and for rows that
            may be key points or polygons if nothing says which.
        ConfigError: For an unknown word of `options.labels`.
    """
    options = options or SplitOptions()
    reading, single_cls, cache = LabelReading.of(options.labels), options.single_cls, options.cache_labels
    rules = RowRules(None if single_cls else nc, tuple(names), reading, keypoints)
    paths = list_images(sources)
    key = label_cache.cache_key(paths, map(label_path, paths), nc, rules)
    file = label_cache.cache_file(sources)
    store = label_cache.load(file, key, paths) if cache else None
    if store is None:
        store = _read_all(paths, rules, split)
        if single_cls:
            store = store.as_single_class()
        if cache and len(store.cls) + len(store.problems):
            label_cache.save(file, key, paths, store)
    _report(store, split, reading.policy, report_dir)
    dropped = next((problem for problem in store.problems if problem.action == DROPPED), None)
    if require and not len(store.cls) and dropped:
        raise DataError(f"{split}: none of {len(paths)} images has a usable label, for example {dropped}")
    if require and not len(store.cls):
        raise DataError(
            f"{split}: none of {len(paths)} images has a usable label, for example {paths[0]} has its labels in "
            f"{label_path(paths[0])} (the last folder named images becomes labels, the suffix .txt)"
        )
    if not len(store):
        raise DataError(f"{split}: none of {len(paths)} images can be used, for example {store.problems[0]}")
    return store


def scan_image(image: str, rules: RowRules) -> ScannedImage:
    """Check one image and read its labels.

    Args:
        image: The image file.
        rules: How rows are read.

    Returns:
        Its size, its objects and what is wrong.
    """
    try:
        header = inspect_image(image)
    except DataError as error:
        reason = str(error).removeprefix(f"{image}: ")
        return ScannedImage(None, Labels.none(), "corrupt", (Problem(image, 0, reason, LEFT_OUT),))
    notes = [Problem(image, 0, header.warning, USED)] if header.warning else []
    file = label_path(image)
    if not os.path.isfile(file):
        return ScannedImage(header.size, Labels.none(), "missing", tuple(notes))
    rows = read_rows(file, rules)
    empty = not len(rows.cls) and not rows.problems
    labels = Labels(rows.cls, rows.xywhn, tuple(rows.segments))
    state = "empty" if empty else "found"
    return ScannedImage(header.size, labels, state, (*notes, *rows.problems), rows.unknown, rows.long)


def _read_all(paths: list[str], rules: RowRules, split: str) -> LabelStore:
    """The store of all images; rows that turn out to be key points are read again, as boxes."""
    scanned = _scan(paths, rules, split)
    long = sum((result.long for result in scanned), LongRows())
    meaning = interpret(long, rules)
    if meaning.ambiguity:
        raise DataError(f"{split}: {meaning.ambiguity}")
    if meaning.rules is not rules:
        scanned = _scan(paths, meaning.rules, split)
    _refuse_unknown(scanned, rules, split)
    kept = [(path, result.size, result.labels) for path, result in zip(paths, scanned, strict=True) if result.size]
    return LabelStore.build(
        [path for path, _, _ in kept],
        [size for _, size, _ in kept],
        [labels for _, _, labels in kept],
        summary=_summary(scanned, meaning.notes),
        problems=(*meaning.notes, *(problem for result in scanned for problem in result.problems)),
    )


def _refuse_unknown(scanned: list[ScannedImage], rules: RowRules, split: str) -> None:
    """Raise DataError for the first class that the data yaml does not have, with what all of them seem to be."""
    unknown = [one for result in scanned for one in result.unknown]
    if not unknown:
        return
    used = {one.value for one in unknown}.union(*(result.labels.cls.tolist() for result in scanned))
    remedy = class_numbers.explain(used, rules.nc) if rules.nc is not None else ""
    first, more = unknown[0], f" ({len(unknown)} such rows)" if len(unknown) > 1 else ""
    raise DataError(
        f"{first.file}:{first.line} {first.reason}{more}; "
        f"{remedy or 'correct the label or nc and names in the data yaml'}"
    )


def _scan(paths: list[str], rules: RowRules, split: str) -> list[ScannedImage]:
    """Check every image and label file: many in processes, few in threads, which start at once."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    if len(paths) >= PROCESSES_FROM and "fork" in multiprocessing.get_all_start_methods():
        with suppress(BrokenProcessPool):  # one was killed, say for memory: threads do it again
            context = multiprocessing.get_context("fork")  # nothing is imported anew
            with ProcessPoolExecutor(usable_cores(), context, initializer=_start_scanner) as processes:
                packed = partial(_packed_chunk, rules)
                return _scanned(processes, packed, chunks, split)
    with ThreadPoolExecutor(min(8, usable_cores())) as threads:
        return _scanned(threads, partial(_scan_chunk, rules), chunks, split)


def _scan_chunk(rules: RowRules, chunk: list[str]) -> list[ScannedImage]:
    return [scan_image(image, rules) for image in chunk]


def _packed_chunk(rules: RowRules, chunk: list[str]) -> "_PackedChunk":
    return _PackedChunk.of(_scan_chunk(rules, chunk))


@dataclass(frozen=True)
class _PackedChunk:
    """The results of a chunk as they pass between processes: a few arrays take a tenth of the time of as many objects.

    Attributes:
        plain: (size, state, objects) of each image that has boxes and no problem; the result itself of the others.
        cls: Class ids of the plain ones' objects.
        xywhn: Their boxes.
    """

    plain: list[tuple[tuple[int, int] | None, str, int] | ScannedImage]
    cls: np.ndarray
    xywhn: np.ndarray

    @staticmethod
    def of(results: list[ScannedImage]) -> "_PackedChunk":
        clear = [not (one.problems or one.unknown or one.long.count or one.labels.segments) for one in results]
        labels = [one.labels for one, is_clear in zip(results, clear, strict=True) if is_clear] or [Labels.none()]
        return _PackedChunk(
            [
                (one.size, one.state, len(one.labels)) if is_clear else one
                for one, is_clear in zip(results, clear, strict=True)
            ],
            np.concatenate([each.cls for each in labels]),
            np.concatenate([each.xywhn for each in labels]),
        )

    def __iter__(self) -> Iterator[ScannedImage]:
        end = 0
        for one in self.plain:
            if isinstance(one, ScannedImage):
                yield one
                continue
            size, state, count = one
            start, end = end, end + count
            yield ScannedImage(size, Labels(self.cls[start:end], self.xywhn[start:end]), state)


def _scanned(pool: Executor, scan_chunk: ChunkScan, chunks: list[list[str]], split: str) -> list[ScannedImage]:
    """The results of all chunks in their order; an error or a signal cancels what has not begun."""
    results = pool.map(scan_chunk, chunks)
    try:
        count = sum(map(len, chunks))
        return list(progress(chain.from_iterable(results), count, f"Scanning {split} labels"))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_scanner() -> None:
    """Use one thread; ignore Ctrl-C, which reaches every process of a terminal, and end at once at other signals."""
    cv2.setNumThreads(0)  # the threads that it had are the parent's
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


def _summary(scanned: list[ScannedImage], notes: Sequence[Problem]) -> str:
    """v6.1's line, and after it what happened to rows."""
    states = [result.state for result in scanned]
    problems = [*notes, *(problem for result in scanned for problem in result.problems)]
    line = ", ".join(f"{states.count(state)} {state}" for state in ("found", "missing", "empty", "corrupt"))
    for action, words in ((DROPPED, "dropped"), (CLIPPED, "clipped"), (BOX_READ, "read as the box in front")):
        count = sum(problem.rows for problem in problems if problem.action == action)
        if count:
            line += f", {count} row{'s' * (count > 1)} {words}"
    return line


def _report(store: LabelStore, split: str, policy: str, report_dir: Path | str | None) -> None:
    """Log the summary and the first problems, write the csv, and stop the run under "strict"."""
    report = write_report(store.problems, Path(report_dir) / f"labels_{split}.csv", policy) if report_dir else None
    LOGGER.info(f"{split}: {store.summary}")
    if not store.problems:
        return
    where = f"; all in {report}" if report else ""
    for note in store.problems:
        if note.action in NOTES:
            LOGGER.warning(f"NOTE: {split}: {note}")
    problems = [problem for problem in store.problems if problem.action not in NOTES]
    bad = [problem for problem in problems if problem.action in (DROPPED, LEFT_OUT)]
    if policy == "strict" and bad:
        raise DataError(
            f"{split}: {len(bad)} problems with --labels strict: {'; '.join(map(str, bad[:SHOWN]))}"
            f"{' ...' if len(bad) > SHOWN else ''}{where}"
        )
    more = len(problems) - SHOWN
    for problem in problems[:SHOWN]:
        LOGGER.warning(f"WARNING: {problem} ({problem.action})")
    if more > 0 or problems and report:
        LOGGER.warning(f"WARNING: {f'{more} more problems' if more > 0 else 'problems'} with {split} labels{where}")


def write_report(problems: Sequence[Problem], path: Path, policy: str = "skip") -> Path | None:
    """Write problems as csv rows file, line, reason, action.

    Args:
        problems: What is wrong.
        path: The csv.
        policy: Under "strict" rows that would be dropped are "run stopped".

    Returns:
        The path, or None if there are no problems.
    """
    if not problems:
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "line", "reason", "action"))
    for problem in problems:
        refused = policy == "strict" and problem.action in (DROPPED, LEFT_OUT)
        writer.writerow((problem.file, problem.line or "", problem.reason, REFUSED if refused else problem.action))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text_atomically(path, text.getvalue())
