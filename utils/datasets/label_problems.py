"""What is wrong in an image or label file, and what was done about it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

DROPPED, CLIPPED, LEFT_OUT, USED, REFUSED = "row dropped", "clipped", "image left out", "image used", "run stopped"
BOX_READ, OUTER_READ = "box read", "outer box read"
NOTES = (BOX_READ, OUTER_READ)  # what was done with sound rows that could mean something else
TOKEN = 40  # characters of a value that are shown
_LINES = 5  # further lines that are named


@dataclass(frozen=True)
class Problem:
    """Something wrong in a file.

    Attributes:
        file: The image or label file.
        line: From 1; 0 is the whole file.
        reason: What is wrong.
        action: What was done about it.
        rows: Number of rows that have this problem; `line` is the first.
    """

    file: str
    line: int
    reason: str
    action: str
    rows: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.reason}" if self.line else f"{self.file} {self.reason}"


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems of one file with equal ones as one, which names the first lines and counts all."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.reason, problem.action), []).append(problem)
    return [group[0] if len(group) == 1 else _joined(group) for group in groups.values()]


def _joined(group: list[Problem]) -> Problem:
    first, *others = group
    lines = ", ".join(str(other.line) for other in others[:_LINES]) + (", ..." if len(others) > _LINES else "")
    also = f"{first.reason} (so {'does' if len(others) == 1 else 'do'} {_count(len(others))}: {lines})"
    return replace(first, reason=also, rows=len(group))


def _count(rows: int) -> str:
    return f"{rows} more row{'s' * (rows != 1)}, line{'s' * (rows != 1)}"
