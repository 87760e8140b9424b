"""The figures of all epochs of a training: kept in its checkpoints, so that results.csv can always be written anew."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass
class EpochHistory:
    """The rows of results.csv.

    Attributes:
        columns: Their names; the first is the epoch.
        rows: Figures of each epoch, as many as there are columns.
    """

    columns: tuple[str, ...] = ()
    rows: list[tuple[float, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, saved: Mapping | None) -> "EpochHistory":
        """Return the history in the training state of a checkpoint; an empty one if it was written without.

        Raises ValueError if it is damaged.
        """
        if not saved:
            return cls()
        columns, rows = saved.get("columns"), saved.get("rows")
        if (
            not isinstance(columns, Sequence)
            or not isinstance(rows, torch.Tensor)
            or rows.dim() != 2
            or rows.shape[1] != len(columns)
        ):
            raise ValueError("the history of its epochs is damaged")
        return cls(tuple(map(str, columns)), [tuple(row) for row in rows.double().tolist()])

    def add(self, figures: Mapping[str, float]) -> None:
        """Add the figures of an epoch, by column."""
        self.columns = tuple(figures)
        self.rows.append(tuple(float(value) for value in figures.values()))

    def cut(self, epochs: int) -> None:
        """Forget all but the first epochs."""
        self.rows = [row for row in self.rows if row[0] < epochs]

    def saved(self) -> dict:
        """Return what a checkpoint keeps: float64, so that no digit of a written row can change."""
        rows = torch.tensor(self.rows, dtype=torch.float64).reshape(len(self.rows), len(self.columns))
        return {"columns": list(self.columns), "rows": rows}

    def covers(self, epochs: int, columns: Iterable[str]) -> bool:
        """Return whether there is one row for each of the first epochs, in order, with the columns asked for.

        Args:
            epochs: How many.
            columns: Names.

        Returns:
            Whether results.csv can be written from it.
        """
        return tuple(columns) == self.columns and [row[0] for row in self.rows] == list(range(epochs))

    def line(self, index: int) -> str:
        """Return a row as results.csv has it, without the line's end."""
        return result_line(self.rows[index])


def result_line(values: Iterable[float]) -> str:
    """Return figures of an epoch as results.csv has them: 20 characters each."""
    return "".join(f"{value:20.5g}," for value in values).rstrip(",")
