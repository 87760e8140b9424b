"""Yaml of strangers: whatever stands in it, the outcome is a value or one line of bounded length, in bounded time."""

import random
import re
import time

import pytest

from models.graph.architecture import read_yaml as read_architecture
from models.graph.spec import read_spec
from models.yolo import Model
from utils.config import DatasetSpec, Hyperparameters
from utils.config.compare_options import CompareConfig, read_study
from utils.config.yaml_files import find_yaml, read_yaml
from utils.config.yaml_loader import MOST_CHARACTERS, MOST_LEVELS, MOST_REPEATED, parse_yaml
from utils.errors import ConfigError, ModelError, UserError
from utils.files import ROOT

LONG = {"name": "a" * 5000, "path": "a/" * 4000 + "b.yaml", "null": "b\0c.yaml", "home": "~nobody-here/b.yaml"}
LONGEST = 4000  # characters of a message, paths included
MODEL = (ROOT / "models" / "yolov5n.yaml").read_text()
BOMB = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)
READERS = {
    "data": (DatasetSpec.load, (ROOT / "data" / "shapes.yaml").read_text()),
    "hyp": (Hyperparameters.load, (ROOT / "data" / "hyps" / "hyp.scratch-low.yaml").read_text()),
    "study": (
        lambda path: read_study(path, CompareConfig(study=str(path))),
        "cfg: [models/yolov5n.yaml, models/yolov5n_CBAM.yaml]\ndata: data/shapes.yaml\nseeds: [3]\nepochs: 5\n",
    ),
    "model": (read_architecture, MODEL),
}
# What a mutation puts in place of a value: each has broken a reader of some program.
NASTY = (
    *("", "~", "[]", "{}", "true", "-1", "0", "1e400", ".inf", "-.inf", ".nan", "9" * 400, "9" * 5000),
    *("0x" + "f" * 3000, "1:59" + ":59" * 3000, "2024-13-45", "2024-01-01", "!!int ''", "!!bool x", "!!timestamp x"),
    *('"\\UFFFFFFFF"', '"\\x1b[2J\\u202e"', "!!binary x", "!!python/object:os.system x", "!!set {a, b}", "<<", "="),
    *("'" + "x" * 5000 + "'", "x" * 5000, "a/" * 3000, "~nobody-here/x", '"a\\0b"', "[" * 60 + "]" * 60, "[" * 3000),
    *("&a [*a]", "*nope", "&a [1, 2]", "*a", "[[[[[[1]]]]]]", "{? [a] : b}", "? {a: b}", "{nc: {nc: {nc: 1}}}", "\t"),
    *("\x00", "\ufeff", "\u2028", "\U0001f600", "- x\n- y", "x: y: z", "999999999", "65537", "0.1.2", "nc", "anchors"),
)


def mutated(text: str, random: random.Random) -> str:
    """Return a text with a few mistakes in it."""
    for _ in range(random.randint(1, 3)):
        values = list(re.finditer(r"(?<=[:,\[] )[^,\[\]#\n]+|(?<=[\[,])[^,\[\]#\n]+", text))
        at = random.randrange(len(text) + 1)
        kind = random.randrange(5)
        if kind <= 1 and values:
            value = random.choice(values)
            text = text[: value.start()] + random.choice(NASTY) + text[value.end() :]
        elif kind == 2:
            text = text[:at] + random.choice(NASTY) + text[at:]
        elif kind == 3:
            text = text[:at] + text[at + random.randint(1, 30) :]
        else:
            lines = text.splitlines(keepends=True) or [""]
            line = random.randrange(len(lines))
            text = "".join([*lines[:line], *random.sample(lines, k=len(lines))[:2], *lines[line:]])
    return text


def outcome(read, argument) -> str:
    """Return the message of a reader, "" if it returned a value; any other error than a UserError fails the test."""
    try:
        read(argument)
    except UserError as error:
        message = str(error)
        assert "\n" not in message and len(message) <= LONGEST, message[:LONGEST]
        assert message.isprintable(), message
        return message
    return ""


@pytest.mark.parametrize("kind", READERS)
def test_a_mutated_yaml_is_a_value_or_one_line(kind, tmp_path):
    read, text = READERS[kind]
    source = random.Random(f"{kind} 0")
    path = tmp_path / "mine.yaml"
    begun, messages = time.monotonic(), []
    for _ in range(250):
        path.write_text(mutated(text, source), encoding="utf-8")
        messages.append(outcome(read, path))
        if time.monotonic() - begun > 20:  # a slow machine tries fewer
            break
    assert all(message.startswith(str(path)) for message in messages if message)
    assert "" in messages and sum(map(bool, messages)) > len(messages) // 4  # some pass, many do not


def test_mutated_rows_build_or_are_one_line(tmp_path):
    source = random.Random(5)
    path = tmp_path / "mine.yaml"
    head, rows = MODEL.split("backbone:")
    begun = time.monotonic()
    for _ in range(30):
        path.write_text(head + "backbone:" + mutated(rows, source), encoding="utf-8")
        outcome(Model, path)
        if time.monotonic() - begun > 15:
            break


# ---- the limits, each from both sides ----


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("a: !!int ''", 1, "'' is no int that can be used"),
        ("\na: !!bool maybe", 2, "'maybe' is no bool"),
        ("a: 1\nb: 2024-13-45", 2, "'2024-13-45' is no timestamp"),
        ("a: !!timestamp soon", 1, "'soon' is no timestamp"),
        ('a: 1\nb: "\\UFFFFFFFF"', 2, "not valid yaml"),
        ("a: 1\n\nb: \x07", 3, "unacceptable character #x0007"),
        ("a:\n  - !!python/object/apply:os.system [x]", 2, "python/object/apply:os.system"),
        ("? [a]\n: b", 1, "unhashable"),
        ("a: 1\nb: *other", 2, "undefined alias"),
        ("a: 1\nb: &b [1, *b]", 2, "the alias *b stands inside what it repeats"),
        (f"a: {'9' * 5000}", 1, "is no int"),
        (f"a: 0x{'f' * 300}", 1, "is no int"),
        ("a: 1:59" + ":59" * 100_000, 1, "is no int"),
        ("a: 1\nb: " + "[" * 10_000, 2, f"more than {MOST_LEVELS} levels"),
        ("- " * 10_000, 1, f"more than {MOST_LEVELS} levels"),
        (BOMB, 6, "aliases repeat more than 1,000,000 characters"),
        ("a:\n b: c\n  d: e", 3, "mapping values are not allowed here"),
    ],
)
def test_whatever_pyyaml_raises_is_one_line_with_the_row(text, line, words, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for read, error_class in ((read_yaml, ConfigError), (read_architecture, ModelError)):
        with pytest.raises(error_class) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}:{line}: not valid yaml: ") and words in message, message
        assert len(message) < 300 + len(str(path)) and message.isprintable()


def test_what_is_within_the_limits_is_read():
    levels = MOST_LEVELS - 1  # the mapping is the first, the number the last
    content, _ = parse_yaml("a: " + "[" * (levels - 1) + "1" + "]" * (levels - 1), "x")
    with pytest.raises(ConfigError, match="levels"):
        parse_yaml("a: " + "[" * levels + "1" + "]" * levels, "x")
    for _ in range(levels - 1):
        content = content["a"] if isinstance(content, dict) else content[0]
    assert content == [1]
    text = "x" * (MOST_REPEATED // 10 - 1)  # and one for the scalar itself
    content, _ = parse_yaml(f"a: &a {text}\nb: [{', '.join(['*a'] * 10)}]", "x")
    assert content == {"a": text, "b": [text] * 10}
    with pytest.raises(ConfigError, match="x:2: not valid yaml: aliases repeat"):
        parse_yaml(f"a: &a {text}\nb: [{', '.join(['*a'] * 11)}]", "x")
    assert parse_yaml("base: &b {lr: 1}\nown: {<<: *b, k: 2}", "x")[0]["own"] == {"lr": 1, "k": 2}
    with pytest.raises(ConfigError, match="4,000,001 characters; a yaml here has at most 4,000,000"):
        parse_yaml("x" * (MOST_CHARACTERS + 1), "x")


def test_values_in_messages_are_cut(tmp_path):
    path = tmp_path / "x.yaml"
    for text in (f"nc: [{'1, ' * 5000}]", f"nc: {'x' * 5000}", f"nc: 1\ntrain: {{a: {'x' * 5000}}}"):
        path.write_text(text)
        assert len(outcome(DatasetSpec.load, path)) < len(str(path)) + 300
    path.write_text(MODEL.replace("nc: 80", f"nc: {BOMB.splitlines()[0][8:]}"))
    assert "got ['lol', 'lol', " in outcome(read_spec, path)
    path.write_text(MODEL.replace("[-1, 3, C3, [128]]", f"[-1, 3, C3, {{a: {'y' * 9000}}}]"))
    assert outcome(read_spec, path).endswith("...") and len(outcome(read_spec, path)) < len(str(path)) + 400


@pytest.mark.parametrize(
    "right, wrong, words",
    [
        (
            "[-1, 3, C3, [128]]",
            "[-1, 101, C3, [128]]",
            "layer 2 (backbone row 3) C3: the second entry is how often it ",
        ),
        ("[-1, 3, C3, [128]]", "[-1, 3, C3, [65537]]", "65537 in its arguments [65537]: channels and all other"),
        ("[-1, 3, C3, [128]]", "[-1, 3, C3, [128, '[1, 99999999]']]", "99999999 in its arguments"),
        ("nc: 80", "nc: 65537", "nc must be at most 65536"),
        ("nc: 80", "nc: 80\nch: 70000", "ch must be at most 65536"),
        ("depth_multiple: 0.33", "depth_multiple: 11", "above 0, at most 10, got 11"),
        ("width_multiple: 0.25", "width_multiple: .inf", "above 0, at most 10, got inf"),
        ("width_multiple: 0.25", "width_multiple: .nan", "above 0, at most 10, got nan"),
        ("[10,13, 16,30, 33,23]", f"[{', '.join(['1,1'] * 101)}]", "a level has at most 100 anchors, got 101"),
        ("[10,13, 16,30, 33,23]", "[10,.inf, 16,30, 33,23]", "anchors must be finite"),
    ],
)
def test_a_model_yaml_has_stated_limits(right, wrong, words, tmp_path):
    assert right in MODEL
    path = tmp_path / "mine.yaml"
    path.write_text(MODEL.replace(right, wrong, 1))
    assert words in outcome(read_spec, path)


def test_a_model_at_its_limits_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    text = MODEL.replace("[-1, 3, C3, [128]]", "[-1, 100, C3, [65536]]", 1).replace(
        "depth_multiple: 0.33", "depth_multiple: 10"
    )
    path.write_text(text.replace("nc: 80", "nc: 65536"))
    spec = read_spec(path)
    assert (spec.rows[2].repeats, spec.rows[2].args, spec.nc, spec.scale.repeats(100)) == (100, (65536,), 65536, 1000)
    path.write_text(MODEL + "  - [-1, 1, Conv, [8, 1]]\n" * (1000 - 24))
    assert "1001 rows; a model has at most 1000 layers" in outcome(read_spec, path)


def test_a_dataset_has_at_most_so_many_classes():
    assert "1000000000 classes; a dataset here has at most 65536" in outcome(DatasetSpec.load, {"nc": 10**9})
    assert DatasetSpec.load({"nc": 65536, "train": "x"}).names[-1] == "class65535"


@pytest.mark.parametrize(
    "name",
    ["a" * 5000, "a/" * 4000 + "b.yaml", "b\0c.yaml", "~nobody-here/b.yaml"],
    ids=["name", "path", "null", "home"],
)
def test_a_path_that_the_system_refuses_is_no_file(name, tmp_path):
    messages = [
        outcome(lambda value: find_yaml(value, "data", "data yaml"), name),
        outcome(read_architecture, f"{name}.yaml"),
        outcome(DatasetSpec.load, name),
    ]
    assert all(messages) and all(len(message) < 800 for message in messages)
    content = {"train": name, "holdout": name, "names": ["a"]}
    assert DatasetSpec.load(content).splits() == ("train",)
    if "\0" in name:
        assert "null character" in outcome(DatasetSpec.load, {**content, "path": name})
    else:
        assert DatasetSpec.load({**content, "path": name}).splits() == ("train",)
    path = tmp_path / "s.yaml"
    path.write_text(f'cfg: ["{name}"]\n'.replace("\0", "\\0"))
    assert read_study(path, CompareConfig(study=str(path))).cfg == (name,)
