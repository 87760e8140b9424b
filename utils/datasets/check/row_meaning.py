"""What rows of more than five values mean, found from all label files before the images are inspected."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from utils.datasets.check.findings import Finding
from utils.datasets.label_files import label_path
from utils.datasets.label_problems import OUTER_READ
from utils.datasets.long_rows import LongRows
from utils.datasets.row_reader import Meaning, RowRules, interpret, read_rows
from utils.errors import DataError

_CHUNK = 64


def find_meaning(paths: Sequence[str], rules: RowRules, workers: int = 8) -> tuple[RowRules, list[Finding]]:
    """Return how the rows of a dataset are to be read, and what is to be reported about that.

    Args:
        paths: The images.
        rules: What the flags and the data yaml say.
        workers: Threads; 0 uses none.

    Returns:
        The rules, and findings without a split.
    """

    def long_rows(chunk: Sequence[str]) -> LongRows:
        return sum((_of_file(label_path(path), rules) for path in chunk), LongRows())

    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    if workers:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(long_rows, chunks))
    else:
        found = list(map(long_rows, chunks))
    long = sum(found, LongRows())
    meaning = interpret(long, rules)
    return meaning.rules, list(_findings(meaning, long))


def _of_file(file: str, rules: RowRules) -> LongRows:
    try:
        return read_rows(file, rules).long
    except DataError:  # none, or one that cannot be read: reported with its image
        return LongRows()


def _findings(meaning: Meaning, long: LongRows) -> Iterator[Finding]:
    file, line = long.first
    for note in meaning.notes:
        yield Finding(file, line, "rows-oriented" if note.action == OUTER_READ else "rows-keypoints", note.reason)
    if meaning.ambiguity:
        yield Finding(file, line, "rows-ambiguous", meaning.ambiguity.removeprefix(f"{file}:{line} "))
