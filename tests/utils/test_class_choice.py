"""--classes by id and by name."""

import pytest

from utils.class_choice import class_ids
from utils.config import DetectConfig, parse
from utils.errors import ConfigError

NAMES = ("person", "traffic light", "7", "bus")


def test_classes_by_id_and_by_name():
    assert class_ids(None, NAMES) is None
    assert class_ids((0, "bus", "traffic light", " 1 ", "3"), NAMES) == (0, 3, 1, 1, 3)
    assert class_ids(("2",), NAMES) == (2,)  # digits are an id
    with pytest.raises(ConfigError, match="--classes 7: the weights know 4 classes, 0 to 3"):
        class_ids(("7",), NAMES)  # also where a class has that name


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("Person", r"--classes Person: the weights know no class of this name \(did you mean person\?\)"),
        ("traffic", r"no class of this name \(did you mean traffic light"),
        ("x" * 500, r"^--classes x{,60}.*no class of this name$"),
        (-1, "--classes -1: the weights know 4 classes"),
        ("-1", "no class of this name"),
    ],
)
def test_a_class_that_is_unknown_is_named_with_the_nearest(wanted, message):
    with pytest.raises(ConfigError, match=message) as caught:
        class_ids(("bus", wanted), NAMES)
    assert len(str(caught.value)) < 200


def test_the_command_line_takes_both():
    assert parse(DetectConfig, ["--classes", "0", "traffic light", "bus", "12"]).classes == (
        0,
        "traffic light",
        "bus",
        12,
    )
    assert DetectConfig(classes=[0, "bus"]).classes == (0, "bus") and DetectConfig(classes=5).classes == (5,)
