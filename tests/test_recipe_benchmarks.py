"""benchmarks/recipe_pieces.py and peer_ultralytics.py: what is read, paired and judged; no other program is needed."""

import csv
import importlib.util
import json
import statistics
import sys

import pytest
import yaml
from small_data import drawn_yaml

from utils.config import DatasetSpec
from utils.errors import ConfigError, UserError
from utils.files import ROOT


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    before, sys.modules[name] = list(sys.path), module
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


pieces, peer, process = map(benchmark, ("recipe_pieces", "peer_ultralytics", "peer_process"))


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def write_run(folder, score):
    write(folder / "metrics.json", {"yolov5": {"map": score}})


# ---- recipe_pieces.py ----


def test_runs_are_paired_by_seed_set_and_start(tmp_path, capsys):
    for seed, (old, new) in enumerate([(0.30, 0.33), (0.31, 0.345), (0.29, 0.315), (0.5, None)]):
        write_run(tmp_path / f"v61_bccd_s_{seed}", old)
        if new:
            write_run(tmp_path / f"big_step_bccd_s_{seed}", new)
    write_run(tmp_path / "v61_cards_w_0", 0.4)
    write_run(tmp_path / "big_step_cards_w_0", 0.38)
    write_run(tmp_path / "big_step_cards_s_0", 0.9)  # no control has this start
    (tmp_path / "v61_bccd_s_9").mkdir()  # has not ended
    write_run(tmp_path / "exp3", 0.9)
    first, second = pieces.compare_cells(pieces.read_sources([tmp_path]), "v61")
    assert (first.piece, first.set, first.start, first.seeds, first.verdict) == (
        "big_step",
        "bccd",
        "scratch",
        3,
        "better",
    )
    assert (first.control, first.mean, first.difference) == pytest.approx((0.30, 0.33, 0.03))
    half = 4.302652729911275 * statistics.stdev([0.03, 0.035, 0.025]) / 3**0.5  # Student's t, 2 degrees of freedom
    assert first.interval == pytest.approx((0.03 - half, 0.03 + half))
    assert (second.start, second.interval, second.verdict, second.seconds_ratio) == (
        "weights",
        None,
        "one seed",
        None,
    )
    assert pieces.main([str(tmp_path), "--control", "v61", "--json", str(tmp_path / "rows.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| `big_step` | bccd | scratch | 30.0 | 33.0 | +3.0 (+1.8 to +4.2) | 3 | better | – |"
    assert lines[3] == "| `big_step` | cards | weights | 40.0 | 38.0 | -2.0 | 1 | one seed | – |" and len(lines) == 4
    assert json.loads((tmp_path / "rows.json").read_text())["rows"][0]["seeds"] == 3
    assert pieces.main([str(tmp_path), "--control", "nix"]) == 1
    assert "one of the pieces: big_step, v61" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.01, 0.012, 0.011], "better"),
        ([-0.01, -0.012, -0.011], "worse"),
        ([0.01, -0.012, 0.011], "no difference shown"),
        ([0.01, 0.02], "2 seeds"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(differences, verdict):
    assert pieces.verdict_of(*pieces.paired_interval(differences), len(differences)) == verdict


def test_studies_and_the_other_program_are_read(tmp_path):
    """A study's baseline is its control; of peer.json our metrics count, and its own before those were computed."""
    study, runs = tmp_path / "study", tmp_path / "runs"
    manifest = {
        "weights": {"a.pt": "1"},
        "seeds": [0, 1],
        "variants": {"base": {"role": "baseline"}, "assign-tal": {"role": "variant"}},
    }
    write(study / "settings.yaml", yaml.safe_dump(manifest))
    write(study / "study.yaml", yaml.safe_dump({"data": "/d/bccd.yaml"}))
    for name, scores, seconds in (("base", (0.2, 0.3), 10.0), ("assign-tal", (0.25, None), 11.0)):
        for seed, score in enumerate(scores):
            folder = study / "runs" / name / f"seed{seed}"
            write(folder / "progress.json", {"seconds": [2 * seconds, seconds, seconds]})
            if score:
                write(folder / "val.json", {"scores": {"map": score}})
    write(runs / "ul_bccd_w_0" / "peer.json", {"map": 0.1, pieces.PEER_KEY: 0.5, "seconds_per_epoch": 20.0})
    write(runs / "ul_bccd_w_1" / "peer.json", {"map": 0.1})
    write(runs / "ul_bccd_w_1" / "results.csv", "epoch,time\n1,30\n2,45\n3,60\n")
    tal, ul = pieces.compare_cells(pieces.read_sources([study, runs]))
    assert (tal.seeds, tal.seconds_ratio) == (1, 1.1) and tal.difference == pytest.approx(0.05)
    assert (ul.seeds, ul.seconds_ratio) == (2, 1.75) and ul.difference == pytest.approx((0.3 - 0.2) / 2)
    with pytest.raises(ConfigError, match="ul bccd weights seed 0 is given twice"):
        pieces.read_sources([runs, runs])


def test_a_list_of_runs_is_saved_and_takes_more_seeds(tmp_path, capsys):
    """One seed has the interval of its study; a list that was saved reads as what it was written from."""
    study = tmp_path / "study"
    names = {"base": {"role": "baseline"}, "nbs-16": {"role": "variant"}, "assign-tal": {"role": "variant"}}
    write(study / "settings.yaml", yaml.safe_dump({"weights": {"a": "1"}, "seeds": [0], "variants": names}))
    write(study / "study.yaml", yaml.safe_dump({"data": "cards.yaml"}))
    for name, score in (("base", 0.3), ("nbs-16", 0.28), ("assign-tal", 0.35)):
        write(study / "runs" / name / "seed0" / "progress.json", {"seconds": [10.0]})
        write(study / "runs" / name / "seed0" / "val.json", {"scores": {"map": score}})
    judged = [("nbs-16", [-0.05, 0.01], "no difference shown"), ("assign-tal", [0.02, 0.08], "better")]
    rows = [
        {"name": name, "differences": {"mAP50": {}, "mAP50-95": {"interval": ends, "verdict": verdict}}}
        for name, ends, verdict in judged
    ]
    write(study / "compare.json", {"variants": [{"name": "base", "differences": {}}, *rows]})
    saved = tmp_path / "runs.csv"
    assert pieces.main([str(study), "--wide", "--save", str(saved)]) == 0
    table = capsys.readouterr().out
    assert table.splitlines() == [
        "| piece | cards, weights |",
        "| --- | --- |",
        "| `assign-tal` | **+5.0 (+2.0 to +8.0)** |",
        "| `nbs-16` | -2.0 (-5.0 to +1.0) |",
    ]
    assert saved.read_text().splitlines()[:3] == [
        "piece,set,start,seed,map,seconds,control,low,high,verdict",
        "base,cards,weights,0,0.30000,10.00,yes,,,",
        "assign-tal,cards,weights,0,0.35000,10.00,,0.02000,0.08000,better",
    ]
    assert pieces.main([str(saved), "--wide", "--save", str(tmp_path / "again.csv")]) == 0
    assert capsys.readouterr().out == table and (tmp_path / "again.csv").read_bytes() == saved.read_bytes()
    for seed, (old, new) in enumerate([(0.31, 0.33), (0.32, 0.38)], start=1):
        write_run(tmp_path / "more" / f"base_cards_w_{seed}", old)
        write_run(tmp_path / "more" / f"assign-tal_cards_w_{seed}", new)
    tal, nbs = pieces.compare_cells(pieces.read_sources([saved, tmp_path / "more"]))
    assert (tal.seeds, tal.verdict, nbs.seeds, nbs.interval) == (3, "no difference shown", 1, (-0.05, 0.01))
    assert tal.interval == pytest.approx((0.13 / 3 - 0.0517115, 0.13 / 3 + 0.0517115), abs=1e-6)
    saved.write_text("piece,set\nbase,cards\n")
    assert pieces.main([str(saved)]) == 1 and "is no list that --save wrote" in capsys.readouterr().err


RECIPES = ROOT / "benchmarks" / "recipes"
PAGES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("recipes.md", "recipes.zh-CN.md")]


def test_the_pages_hold_the_table_of_the_recorded_runs():
    rows = pieces.compare_cells(pieces.read_sources([RECIPES / "pieces.csv"]))
    assert len(rows) > 30 and {row.set for row in rows} == {"bccd", "cards"}
    for page in PAGES:
        assert "\n".join(pieces.wide_markdown(rows).splitlines()[2:]) + "\n\n" in page
        for row in rows:
            assert f"{100 * row.control:.1f}" in page


def test_the_pages_hold_the_table_of_the_runs_from_random_weights():
    rows = pieces.compare_cells(pieces.read_sources([RECIPES / "pieces_scratch.csv"]))
    assert len(rows) == 10 and {(row.set, row.start) for row in rows} == {("cards", "scratch")}
    for page in PAGES:
        assert "\n".join(pieces.wide_markdown(rows).splitlines()[2:]) + "\n\n" in page
        assert f"{100 * rows[0].control:.1f}" in page


def score(runs):
    """Mean and standard deviation over seeds, in points."""
    values = [100 * run.map for run in runs.values()]
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def rows_of(page, *first):
    lines = (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| "))
    return [cells for cells in lines if cells[0] in first]


def test_the_pages_hold_the_scores_of_the_recorded_recipes():
    cells = pieces.read_sources([RECIPES / "whole.csv"])
    starts = {"random": "scratch", "随机": "scratch", "`yolov5n.pt`": "weights"}
    for page in PAGES:
        rows = rows_of(page, "bccd", "cards")
        assert len(rows) == 4
        for name, start, *scores in rows:
            for piece, text in zip(("v61", "small", "ultralytics"), scores, strict=True):
                assert text == score(cells[piece, name, starts[start]].runs), (name, start, piece)
            assert sorted(cells["small", name, starts[start]].runs) == [0, 1, 2, 3, 4]


def test_the_pages_hold_the_scores_of_what_the_recipe_is_compared_with():
    """One seed each, in the order of the columns; - where it was not trained."""
    cells = pieces.read_sources([RECIPES / "whole.csv"])
    columns = [("bccd", "scratch"), ("cards", "scratch"), ("bccd", "weights"), ("cards", "weights")]
    for page in PAGES:
        for name in ("small", "every_step", "musgd", "adamw", "adamw_longer", "modern"):
            [(_, *scores)] = rows_of(page, f"`{name}`")
            for column, text in zip(columns, scores[-4:], strict=True):
                cell = cells.get((name, *column))
                assert text == (f"{100 * cell.runs[0].map:.1f}" if cell else "-"), (name, column)


def test_the_pages_hold_what_was_measured_on_more_images():
    cells = pieces.read_sources([RECIPES / "whole.csv"])
    runs = [cells[name, "shapes4000", "scratch"].runs[0] for name in ("v61", "modern", "modern_adamw", "small")]
    for page, heading in zip(PAGES, ("### On more images", "### 更多的图像"), strict=True):
        lines = [line for line in page.split(heading)[1].split("\n## ")[0].splitlines() if line.startswith("| `hyp.")]
        scores, ratios = zip(*(map(float, line.strip("| ").split(" | ")[1:]) for line in lines), strict=True)
        assert scores == pytest.approx([100 * run.map for run in runs], abs=0.0501)
        assert ratios == pytest.approx([run.seconds / runs[0].seconds for run in runs], abs=0.00501)


# ---- peer_ultralytics.py ----


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data yaml of drawn images."""
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=4, val=6)


def perfect_rows(spec):
    """Rows of predictions.json that repeat every label, class ids from 1."""
    rows = []
    for one in peer.results_of([], [1, 2, 3, 4], spec, "val"):
        for number, (cls, (x1, y1, x2, y2)) in enumerate(zip(one.labels_cls, one.labels_xyxy.tolist(), strict=True)):
            box = [x1, y1, x2 - x1, y2 - y1]
            name = one.path.rsplit("/", 1)[-1]
            rows.append({"file_name": name, "category_id": int(cls) + 1, "bbox": box, "score": 0.9 - 0.01 * number})
    return rows


def test_its_predictions_are_judged_by_our_metrics(data):
    spec = DatasetSpec.load(data)
    rows = perfect_rows(spec)
    perfect = peer.our_metrics(peer.results_of(rows, [1, 2, 3, 4], spec, "val"), spec.nc)
    assert perfect["coco"] == 1 and perfect["map"] == pytest.approx(0.995)  # v6.1's interpolation ends below 1
    shifted = [{**row, "bbox": [row["bbox"][0] + 0.3 * row["bbox"][2], *row["bbox"][1:]]} for row in rows]
    worse = peer.our_metrics(peer.results_of(shifted, [1, 2, 3, 4], spec, "val"), spec.nc)
    assert worse["coco"] == pytest.approx(0.1, abs=0.02)  # IoU 0.7 / 1.3 = 0.54: correct at 0.50 alone
    swapped = peer.our_metrics(peer.results_of(rows, [2, 1, 3, 4], spec, "val"), spec.nc)
    assert swapped["map"] < 0.6
    with pytest.raises(ConfigError, match="elsewhere: was predicted, and val has no such image"):
        peer.results_of([{**rows[0], "file_name": "elsewhere.jpg"}], [1, 2, 3, 4], spec, "val")


STAND_IN = """#!{python}
import json, pathlib, sys
file = pathlib.Path(sys.argv[2]); job = json.loads(file.read_text()); folder = pathlib.Path(job["folder"])
(folder / "results.csv").write_text("epoch,time\\n1,12\\n2,20\\n3,28\\n")
(folder / "rows.json").write_text({rows!r})
found = [dict(iou=iou, map50=0.5, map=0.25, file=str(folder / "rows.json"), ids=[1, 2, 3, 4]) for iou in job["ious"]]
(file.parent / "result.json").write_text(json.dumps(dict(version="9.0", map50=0.5, map=0.25, seconds=28.0,
    transferred=None, optimizer="AdamW", predictions=found)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for the interpreter")
def test_what_it_writes(data, tmp_path, capsys):
    """A script stands in for the interpreter of the other environment."""
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, rows=json.dumps(perfect_rows(DatasetSpec.load(data)))))
    python.chmod(0o755)
    words = ["--python", str(python), "--data", str(data), "--epochs", "3", "--seed", "2", "--project", str(tmp_path)]
    record = peer.measure(peer.parse_arguments(words))
    folder = tmp_path / "ultralytics_small_scratch_2"
    assert json.loads((folder / "peer.json").read_text()) == record
    assert (record["version"], record["seconds_per_epoch"], record["map"], record["seed"]) == ("9.0", 8.0, 0.25, 2)
    assert record["ours_map_iou0.6"] == record["ours_map_iou0.7"] == pytest.approx(0.995)
    with (folder / "peer.csv").open(newline="") as stream:
        assert next(csv.DictReader(stream))["peer_map50_iou0.7"] == "0.5"
    theirs = yaml.safe_load((folder / "data.yaml").read_text())
    assert theirs["names"][3] == "star" and theirs["val"] == [str(each) for each in DatasetSpec.load(data).val]
    assert peer.lines_of(record)[1] == "suppression at IoU 0.7: 0.5000 / 0.2500 by its metrics, 0.9950 / 0.9950 by ours"
    python.write_text(f"#!{sys.executable}\nraise SystemExit(3)\n")
    with pytest.raises(UserError, match="ended with 3, .*does not install"):
        peer.measure(peer.parse_arguments(words))
    for wrong in (["--peer-weights", "a.pt"], ["--epochs", "0", "--start", "weights"]):
        with pytest.raises(SystemExit):
            peer.parse_arguments([*words, *wrong])
    assert "add --start weights" in capsys.readouterr().err


def test_our_tree_does_not_import_it():
    """Its name appears in benchmarks as a program's alone; peer_process.py imports nothing of ours."""
    text = (ROOT / "benchmarks" / "peer_process.py").read_text()
    assert "from utils" not in text and "import utils" not in text
    for folder in ("utils", "models", "tools"):
        for file in (ROOT / folder).rglob("*.py"):
            assert "import ultralytics" not in (source := file.read_text(encoding="utf-8")), file
            assert "from ultralytics" not in source, file
    assert process.common(
        {"folder": "/a/b", "data": "d", "imgsz": 320, "batch": 16, "device": "cpu", "workers": 1}
    ) == {
        **{"data": "d", "imgsz": 320, "batch": 16, "device": "cpu", "workers": 1},
        **{"project": "/a", "name": "b", "plots": False},
    }
