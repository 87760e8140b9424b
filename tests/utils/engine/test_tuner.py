"""Evolution: children stay in range and descend from the best; the csv is its memory; it really climbs."""

import numpy as np
import pytest
import yaml

from utils.config import Hyperparameters
from utils.engine.hooks import VALIDATION_COLUMNS
from utils.engine.tuner import RANGES, append_generation, evolve, fitness, mutate, read_generations
from utils.errors import ConfigError, NonFiniteError

BASE = Hyperparameters().as_dict()


def generator(seed=0):
    return np.random.default_rng(seed)


def results(score):
    return (0.5, 0.5, score, score, 0.1, 0.2, 0.3)


def test_ranges_cover_v61s_29_keys_and_their_files():
    assert len(RANGES) == 29 and set(BASE) | {"anchors"} == set(RANGES)
    assert all(lowest < highest for _, lowest, highest in RANGES.values())
    assert all(RANGES[name][1] <= value <= RANGES[name][2] for name, value in BASE.items())


def test_children_change_within_their_ranges():
    children = [mutate([BASE], [0.5], generator(seed)) for seed in range(300)]
    for name, (strength, lowest, highest) in RANGES.items():
        if name not in BASE:
            continue
        values = {child[name] for child in children}
        assert all(lowest <= value <= highest for value in values)
        movable = strength > 0 and BASE[name] > 0
        assert (len(values) > 50) == movable, name
    assert all(child != BASE for child in children) and list(children[0]) == list(BASE)
    changed = np.mean(
        [[child[name] != BASE[name] for name in ("box", "cls", "hsv_s", "translate")] for child in children]
    )
    assert 0.7 < changed < 0.85
    assert {name: value for name, value in BASE.items()} == Hyperparameters().as_dict()


def test_a_value_outside_its_range_is_brought_in_and_unknown_keys_are_kept():
    child = mutate([{**BASE, "lr0": 5.0, "mine": 42.0}], [0.1], generator())
    assert child["lr0"] == 0.1 and child["mine"] == 42.0
    assert mutate([{"fliplr": 0.5}], [0.1], generator()) == {"fliplr": 0.5}


def test_parents_are_the_five_best_by_their_lead():
    rows = [{"fliplr": index / 10, "box": 0.05} for index in range(8)]
    scores = [0.1, 0.9, 0.2, 0.3, 0.8, 0.7, 0.5, 0.6]
    drawn = [mutate(rows, scores, generator(seed))["fliplr"] for seed in range(400)]
    counts = {index: drawn.count(index / 10) for index in range(8)}
    assert counts[0] == counts[2] == counts[3] == 0
    assert counts[1] > counts[4] > counts[5] > counts[7] > 0 and counts[6] < 5


def test_fitness_weighs_map():
    assert fitness((1, 1, 0.5, 0.3, 0, 0, 0)) == pytest.approx(0.32)
    assert fitness((1, 1, float("nan"), 0.3, 0, 0, 0)) == 0


def test_csv_has_v61s_form_and_comes_back(tmp_path):
    file = tmp_path / "evolve.csv"
    append_generation(file, results(0.25), BASE)
    append_generation(file, results(0.5), {**BASE, "lr0": 0.0123456})
    header, first, _ = file.read_text().splitlines()
    assert [cell.strip() for cell in header.split(",")] == [*VALIDATION_COLUMNS, *BASE]
    assert header.startswith("   metrics/precision,") and first.startswith(" " * 17 + "0.5,")
    rows, fitnesses = read_generations(file, BASE)
    assert rows[0] == BASE and rows[1]["lr0"] == 0.012346 and fitnesses == pytest.approx([0.25, 0.5])


def hill(values):
    """Results that rise as box nears 0.15 and hsv_v nears 0.1."""
    return results(max(0.0, 1 - 4 * abs(values["box"] - 0.15) - abs(values["hsv_v"] - 0.1)))


def test_evolution_climbs_and_leaves_its_files(tmp_path):
    seen = []

    def train_once(values):
        seen.append(values)
        return hill(values)

    best = evolve(train_once, BASE, 60, tmp_path, generator())
    assert seen[0] == BASE and len(seen) == 60
    assert fitness(hill(best)) > fitness(hill(BASE)) + 0.2
    assert fitness(hill(best)) == pytest.approx(max(fitness(hill(values)) for values in seen), abs=1e-4)
    assert len((tmp_path / "evolve.csv").read_text().splitlines()) == 61
    assert yaml.safe_load((tmp_path / "hyp_evolve.yaml").read_text()) == best
    assert Hyperparameters.load(tmp_path / "hyp_evolve.yaml").as_dict() == best
    assert (tmp_path / "evolve.png").stat().st_size > 1000


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr("utils.plots.sweeps.plot_evolution", lambda file: None)


def test_interrupted_evolution_goes_on_as_if_it_had_not_been(tmp_path, no_picture):
    straight, halved = tmp_path / "straight", tmp_path / "halved"
    for folder in (straight, halved):
        folder.mkdir()
    evolve(hill, BASE, 6, straight, generator(7))
    evolve(hill, BASE, 2, halved, generator(7))
    evolve(hill, BASE, 4, halved, generator(7))
    # one seed, and the same steps on the same float64 numbers
    assert (straight / "evolve.csv").read_text() == (halved / "evolve.csv").read_text()


def test_a_training_that_diverges_counts_as_nothing(tmp_path, no_picture):
    def train_once(values):
        if values["box"] != BASE["box"]:
            raise NonFiniteError("the loss is nan")
        return hill(values)

    assert evolve(train_once, BASE, 4, tmp_path, generator()) == BASE
    _, fitnesses = read_generations(tmp_path / "evolve.csv", BASE)
    assert len(fitnesses) == 4 and 0.0 in fitnesses


def test_mistakes_in_the_csv_name_the_line(tmp_path):
    file = tmp_path / "evolve.csv"
    append_generation(file, results(0.1), BASE)
    with pytest.raises(ConfigError, match="evolve.csv:1: these are not the columns"):
        read_generations(file, {"lr0": 0.1})
    with file.open("a") as stream:
        stream.write("1, 2, oops\n")
    with pytest.raises(ConfigError, match=f"evolve.csv:3: expected {len(VALIDATION_COLUMNS) + len(BASE)} numbers"):
        read_generations(file, BASE)
    with pytest.raises(ValueError, match="expected 7 results, got 3"):
        append_generation(file, (1, 2, 3), BASE)
