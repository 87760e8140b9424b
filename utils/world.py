"""The processes of one training as a launcher such as torchrun started them. Needs no torch."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils.errors import ConfigError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """A process's place among those that train together; without a launcher it is alone.

    Attributes:
        rank: Which process of all, from 0. The first one prints and writes.
        size: Processes on all hosts.
        local_rank: Which process on this host.
        local_size: Processes on this host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def __post_init__(self):
        if not (0 <= self.local_rank < self.local_size <= self.size and 0 <= self.rank < self.size):
            raise ConfigError(
                f"the launcher's variables contradict each other: process {self.rank} of {self.size}, "
                f"{self.local_rank} of {self.local_size} on this host; start with torchrun"
            )

    @classmethod
    def of_launcher(cls, variables: Mapping[str, str] | None = None) -> "World":
        """Return the world that a launcher's variables describe, one process if there is no launcher.

        `variables` are those of the environment by default. Raises ConfigError if only some of them are set, or if they
        contradict each other.
        """
        found = {
            name: text for name in _VARIABLES if (text := (os.environ if variables is None else variables).get(name))
        }
        if int_of(found, "WORLD_SIZE", 1) == 1 or "RANK" not in found:
            return cls()
        missing = [name for name in _VARIABLES if name not in found]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is {found['WORLD_SIZE']} and {', '.join(missing)} not set: start several processes with "
                "torchrun --nproc_per_node N train.py ..."
            )
        numbers = (int_of(found, name, 0) for name in _VARIABLES[:4])
        return cls(*numbers)

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.rank == 0

    @property
    def is_several(self) -> bool:
        """Whether there are other processes."""
        return self.size > 1

    def threads(self, cores: int, wanted: int) -> int:
        """Return the threads in which this process should compute.

        torchrun sets OMP_NUM_THREADS=1 for several processes if the user set nothing: on a large machine most cores
        would idle.

        Args:
            cores: Cores that the process may use.
            wanted: Threads that torch has chosen.

        Returns:
            `wanted`, but an equal share of the cores if the one thread is the launcher's choice.
        """
        if self.local_size == 1 or wanted != 1:
            return wanted
        return max(cores // self.local_size, 1)

    def own(self, count: int, multiple: int = 1) -> range:
        """Return which of `count` things are this process's: contiguous, so that the order of ranks is that of things.

        Args:
            count: Things, such as the images of a global batch.
            multiple: So many stay together; a rest of less is left to nobody, unless it is all there is.

        Returns:
            Their indices; empty if there are fewer things than processes. The first ranks get one group more.
        """
        groups = max(count // multiple, min(count, 1))
        base, extra = divmod(groups, self.size)
        start = self.rank * base + min(self.rank, extra)
        stop = start + base + (self.rank < extra)
        rest = multiple > 1 and count < multiple
        return range(start * multiple, count if rest and stop else stop * multiple)


def int_of(variables: Mapping[str, str], name: str, default: int) -> int:
    """Return a variable as a whole number.

    Args:
        variables: Of an environment.
        name: Which one.
        default: Its value if it is not set.

    Returns:
        The number.

    Raises:
        ConfigError: If it is something else.
    """
    text = variables.get(name, "")
    try:
        return int(text or default)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}: expected a whole number; start with torchrun") from None


def launch_command(count: int, arguments: Sequence[str]) -> str:
    """Return the command that trains in several processes of this host.

    Args:
        count: Processes.
        arguments: Those of train.py.

    Returns:
        A line for a shell.
    """
    import shlex

    return shlex.join(["torchrun", "--nproc_per_node", str(count), "train.py", *arguments])
