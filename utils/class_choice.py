"""The classes that `--classes` keeps, by id or by name."""

from collections.abc import Sequence

from utils.errors import NAME_LIMIT, ConfigError, cut, nearest


def ids_and_names(classes: Sequence[int | str] | None) -> tuple[int | str, ...] | None:
    """Return classes as a command line has them, numbers as ids. Raises ConfigError for a negative one."""
    if classes is None:
        return None
    for wanted in classes:
        if str(wanted).lstrip("-").isdecimal() and int(wanted) < 0:
            raise ConfigError(f"--classes {wanted}: ids begin at 0")
    return tuple(int(wanted) if str(wanted).isdecimal() else wanted for wanted in classes)


def class_ids(classes: Sequence[int | str] | None, names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the ids of classes given by id or by name.

    Args:
        classes: Ids, as numbers or as digits, and names; None for no choice.
        names: The classes of the weights, by id.

    Returns:
        Their ids; None for no choice.

    Raises:
        ConfigError: If the weights do not know one.
    """
    if classes is None:
        return None
    ids = []
    for wanted in classes:
        if isinstance(wanted, int) or wanted.strip().isdecimal():
            class_id = int(wanted)
        elif wanted in names:
            class_id = list(names).index(wanted)
        else:
            raise ConfigError(
                f"--classes {cut(wanted, NAME_LIMIT)}: the weights know no class of this name{nearest(wanted, names)}"
            )
        if not 0 <= class_id < len(names):
            raise ConfigError(f"--classes {class_id}: the weights know {len(names)} classes, 0 to {len(names) - 1}")
        ids.append(class_id)
    return tuple(ids)
