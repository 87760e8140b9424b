"""Studies of recipes: what --recipes and --pieces mean, the files of such a study, and one that is continued."""

import json

import pytest
import yaml
from small_data import drawn_yaml

import compare
from utils.compare import execution
from utils.compare.manifest import manifest_changes, read_manifest
from utils.compare.plan import open_study
from utils.compare.preparation import prepare
from utils.compare.recipes import parse_piece, planned_recipes, recipe_notes
from utils.compare.results import Cost
from utils.compare.study import command_of
from utils.config import Hyperparameters, from_options
from utils.config.compare_options import CompareConfig
from utils.errors import ConfigError

PIECES = ["assign=tal", "nbs=16,optimizer=adamw"]
NAMES = ["hyp.scratch-low", "assign-tal", "nbs-16+optimizer-adamw"]
SMALL = dict(imgsz=64, epochs=2, batch_size=8, workers=0, device="cpu", noautoanchor=True, cost_seconds=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data yaml of 24 + 8 drawn images."""
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=24, val=8)


def planned(tmp_path, **options):
    return planned_recipes(from_options(CompareConfig, cfg=["yolov5n.yaml"], **options), tmp_path)


def test_a_piece_is_the_base_with_its_keys_replaced(tmp_path):
    control, tal, several = planned(tmp_path, pieces=PIECES)
    base = Hyperparameters.load(CompareConfig.hyp)
    assert [each.name for each in (control, tal, several)] == NAMES
    assert control.hyp == base and tal.hyp == base.replace(assign="tal") and tal.file == tmp_path / "assign-tal.yaml"
    assert several.hyp == base.replace(nbs=16, optimizer="AdamW")
    assert several.source == "hyp.scratch-low.yaml with nbs: 16, optimizer: adamw"
    assert recipe_notes([control, several]) == [
        f"{NAMES[2]} is hyp.scratch-low with optimizer AdamW (not auto), nbs 16 (not 64)."
    ]


def test_values_of_a_piece_are_numbers_words_and_none(tmp_path):
    assert parse_piece(" lr0 = 1e-3 ,warmup_share=null") == {"lr0": "1e-3", "warmup_share": None}
    base = tmp_path / "own.yaml"
    base.write_text(yaml.safe_dump(Hyperparameters(warmup_share=0.1).as_dict()))
    control, piece = planned(tmp_path, hyp=str(base), pieces=["lr0=1e-3,warmup_share=null"])
    assert (control.hyp.warmup_share, piece.hyp.warmup_share, piece.hyp.lr0) == (0.1, None, 0.001)
    assert piece.name == "lr0-1e-3+warmup_share-None" and control.name == "own"


def test_recipes_are_files_and_the_first_is_the_control(tmp_path):
    low, med = planned(tmp_path, recipes=["hyp.scratch-low.yaml", "hyp.scratch-med.yaml"])
    assert (low.name, med.name, low.hyp.mixup, med.hyp.mixup) == ("hyp.scratch-low", "hyp.scratch-med", 0.0, 0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(pieces=["assgn=tal"]), r"--pieces assgn=tal: assgn: no such hyperparameter \(did you mean assign\?\)"),
        (dict(pieces=["nbs=16", "assign=xx"]), "--pieces assign=xx: assign: expected v5, atss, simota, tal, got 'xx'"),
        (dict(pieces=["nbs=1e9"]), "--pieces nbs=1e9: nbs 1e[+]09: expected 1 to 65536"),
        (dict(pieces=["nbs"]), "--pieces nbs: expected KEY=VALUE"),
        (dict(pieces=["nbs=16,nbs=8"]), "nbs is given twice"),
        (dict(pieces=["nbs=64"]), "with nbs: 64: is the same recipe as the control"),
        (dict(pieces=["nbs=16", "nbs=16.0"]), "with nbs: 16.0: is the same recipe as nbs-16"),
        (dict(recipes=["hyp.scratch-low.yaml"] * 2), "--recipes hyp.scratch-low.yaml: is the same recipe as the cont"),
        (dict(recipes=["hyp.scratch-low.yaml"]), "one file has nothing to be compared with"),
        (dict(recipes=["a.yaml", "b.yaml"], pieces=PIECES), "so --pieces has no place beside it"),
        (dict(recipes=["a.yaml", "b.yaml"], hyp="c.yaml"), "so --hyp has no place beside it"),
        (dict(pieces=PIECES, cfg=["a.yaml", "b.yaml"]), "on one model, and --cfg names 2"),
        (dict(pieces=PIECES, cfg=None, weights=["a.pt"]), "on one model, and --cfg names none"),
    ],
)
def test_errors_name_the_piece(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        planned_recipes(from_options(CompareConfig, **{"cfg": ["yolov5n.yaml"], **options}), tmp_path)
    assert "\n" not in str(caught.value)


def test_two_files_of_one_name_are_refused(tmp_path):
    files = [tmp_path / folder / "Own.yaml" for folder in "ab"]
    for index, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(yaml.safe_dump(Hyperparameters(nbs=32 + index).as_dict()))
    with pytest.raises(ConfigError, match="has the name Own, as Own.yaml has; rename one"):
        planned(tmp_path, recipes=list(map(str, files)))


def test_the_folder_of_a_study_has_all_recipes_and_continues(data, tmp_path):
    """With pieces and with files: the same plan from flags and from study.yaml, and changed recipes are found."""
    for name, options in (
        ("pieces", dict(pieces=PIECES)),
        ("files", dict(recipes=["hyp.scratch-low.yaml", "hyp.scratch-med.yaml"])),
    ):
        folder = tmp_path / name
        config = from_options(
            CompareConfig, cfg=["yolov5n.yaml"], data=data, seeds=[2], project=tmp_path, name=name, **SMALL, **options
        )
        plan = prepare(folder, config)
        assert [each.role for each in plan.variants] == ["baseline"] + ["variant"] * (len(plan.variants) - 1)
        assert [each.name for each, seed in plan.pairs() if seed == 1] == [each.name for each in plan.variants]
        for each in plan.variants:
            training = plan.config.training_config(str(each.cfg), 0, hyp=plan.hyp_of(each))
            assert Hyperparameters.load(training.hyp) == each.recipe.hyp and str(folder) in training.hyp
        assert [path.name for path in (folder / "models").iterdir()] == ["yolov5n.yaml"]
        kept = read_manifest(folder)
        assert kept["variants"][plan.variants[1].name]["hyp"] == plan.variants[1].recipe.hyp.as_dict()
        _, again = open_study(CompareConfig(study=str(folder)))
        continued = prepare(folder, again, keep_study=True)
        assert [(each.name, each.recipe, each.source) for each in continued.variants] == [
            (each.name, each.recipe, each.source) for each in plan.variants
        ]
        assert manifest_changes(kept, read_manifest(folder)) == []
        kept["variants"][plan.variants[1].name]["hyp"]["lr0"] = 0.5
        assert manifest_changes(kept, read_manifest(folder)) == [f"{plan.variants[1].name}: lr0 0.5 -> 0.01"]
        words = command_of(continued).split()  # names the study's own copies
        again = compare.parse_opt(words[2:])
        assert (again.pieces, len(again.recipes or ())) == (config.pieces, len(config.recipes or ()))
        assert (f"{name}/recipes/hyp.scratch-low.yaml" in words) and str(tmp_path) not in words


def test_costs_of_one_network_are_measured_once(data, tmp_path, monkeypatch):
    """Recipes change no network, but the number of anchors does."""
    config = from_options(
        CompareConfig, cfg=["yolov5n.yaml"], data=data, seeds=[1], **SMALL, pieces=["nbs=16", "anchors=4"]
    )
    plan, measured = prepare(tmp_path / "s", config), []

    def costs(networks, *args, **options):
        measured.append(list(networks))
        return {name: Cost(len(name), None, None) for name in networks}

    for name in ("measure_costs", "draw_sample_grid", "load_models"):
        monkeypatch.setattr(execution, name, costs if name == "measure_costs" else lambda *args, **options: None)
    monkeypatch.setattr(execution, "largest_stride", lambda model: 32)
    monkeypatch.setattr(execution, "_has_costs", lambda plan: False)
    execution.measure(plan, {each.name: tmp_path / "best.pt" for each in plan.variants}, "cpu")
    assert measured == [["hyp.scratch-low", "anchors-4"]]
    kept = json.loads((tmp_path / "s" / "costs.json").read_text())
    assert [kept[name]["parameters"] for name in ("hyp.scratch-low", "nbs-16", "anchors-4")] == [15, 15, 9]
    execution.measure(plan, {"nbs-16": tmp_path / "best.pt"}, "cpu")  # the control has failed
    assert measured[1:] == [["nbs-16"]]


@pytest.mark.slow
def test_a_study_of_pieces_is_run_continued_and_reported(data, tmp_path, monkeypatch):
    """Each run is trained with its recipe, a lost one is made again alike, and a piece may be added."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = dict(cfg=["yolov5n.yaml"], data=data, seeds=[2], project=tmp_path, name="study", **SMALL)
    study = compare.run(**options, pieces=PIECES[1:])
    folder = tmp_path / "study"
    assert [each.name for each in study.variants] == [NAMES[0], NAMES[2]] and len(study.variants[1].runs) == 2
    trained = [Hyperparameters.load(folder / "runs" / name / "seed1" / "hyp.yaml") for name in (NAMES[0], NAMES[2])]
    assert [each.nbs for each in trained] == [64, 16]
    difference = study.variants[1].differences["mAP50-95"]
    assert set(difference.per_seed) == {0, 1}
    for name in ("val.json", "trained.json", "weights/last.pt"):
        (folder / "runs" / NAMES[2] / "seed1" / name).unlink()
    again = compare.run(study=folder)
    assert again.variants[1].differences["mAP50-95"].per_seed == difference.per_seed
    assert f"{NAMES[2]} is hyp.scratch-low with optimizer AdamW" in (folder / "compare.md").read_text()
    with pytest.raises(ConfigError, match=rf"{NAMES[0]}: lr0 0.01 -> 0.02"):
        changed = tmp_path / "hyp.scratch-low.yaml"
        changed.write_text(yaml.safe_dump(Hyperparameters(lr0=0.02).as_dict()))
        compare.run(**options, pieces=PIECES[1:], hyp=changed)
