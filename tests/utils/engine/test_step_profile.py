"""--profile-steps: every part has its time, the trace is there, and nothing of the clock stays behind."""

import gzip
import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_data import drawn_yaml

import detect
import train
from utils.engine import step_profile
from utils.engine.step_profile import FRAME_PARTS, TRACED, TRAINING_PARTS, WARM_UP, StepProfile, TrainingProfile
from utils.images import write_image

SETTINGS = dict(cfg="models/yolov5n_CBAM.yaml", imgsz=64, batch_size=4, epochs=1, workers=0, device="cpu", noval=True)


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO, logger="yolo")


def rows(text, unit):
    """The table of a log: part -> milliseconds."""
    table = text[text.index(f"ms per {unit}") :].splitlines()[1:]
    found = [re.fullmatch(r"( *\S.*?) +(\d+\.\d\d) +\d+\.\d % +\d+\.\d\d", line) for line in table]
    return {match[1].strip(): float(match[2]) for match in found if match}


def test_a_training_profile_has_every_part_and_leaves_nothing_behind(tmp_path, caplog, blank_figures, monkeypatch):
    before, after = {}, {}
    recipe = tmp_path / "hyp.yaml"
    recipe.write_text("nbs: 4\n")  # a step for each batch

    def state(trainer):
        components = trainer.components
        owners = (trainer, components, components.loader, components.ema, trainer.losses, *trainer.hooks)
        hooks = sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in components.model.modules())
        # the names of what an instance holds of its own, and the loss itself
        return [sorted(vars(owner)) for owner in owners], components.loss, hooks

    start, close = TrainingProfile.start, StepProfile.close

    def start_and_look(hook, trainer):
        before["state"], before["trainer"] = state(trainer), trainer
        start(hook, trainer)

    def close_and_look(profile):
        close(profile)
        after.setdefault("state", state(before["trainer"]))

    monkeypatch.setattr(TrainingProfile, "start", start_and_look)
    monkeypatch.setattr(StepProfile, "close", close_and_look)
    data = drawn_yaml(tmp_path, train=4 * (WARM_UP + 4 + TRACED + 1), val=2)
    result = train.run(**SETTINGS, data=str(data), hyp=str(recipe), project=str(tmp_path), profile_steps=4)
    found = rows(caplog.text, "batch")
    assert set(TRAINING_PARTS) | {"Conv", "C3", "CBAM", "Detect", "between layers", "other", "all"} <= set(found)
    assert all(found[part] > 0 for part in ("loading", "forward", "loss", "backward", "Conv", "C3", "CBAM"))
    assert sum(found[part] for part in (*TRAINING_PARTS, "other")) == pytest.approx(found["all"], abs=0.1)
    events = json.loads((result.save_dir / "profile.json").read_text())["traceEvents"]
    names = [event.get("name") for event in events if event.get("cat") == "user_annotation"]
    assert names.count("forward") == TRACED and names.count("backward") == TRACED
    assert any("conv" in event.get("name", "") for event in events)
    assert before["state"] == after["state"]


def test_a_run_that_is_too_short_says_so_in_one_line(tmp_path, caplog, blank_figures):
    data = drawn_yaml(tmp_path, train=8, val=2)
    result = train.run(**SETTINGS, data=str(data), project=str(tmp_path), profile_steps=2)
    assert (
        "--profile-steps 2: the run ended after 2 of 3 warm-up steps (a batch each), so nothing was timed"
        in caplog.text
    )
    assert not (result.save_dir / "profile.json").exists()


def test_frames_have_every_part(tmp_path, caplog, real):
    (tmp_path / "images").mkdir()
    for index in range(WARM_UP + 2 + TRACED + 2):
        write_image(tmp_path / "images" / f"{index}.png", np.full((64, 64, 3), index, np.uint8))
    options = dict(weights=(str(real("weights/yolov5n.pt")),), source=str(tmp_path / "images"), imgsz=(64, 64))
    folder = detect.run(**options, project=str(tmp_path), device="cpu", profile_steps=2).save_dir
    found = rows(caplog.text, "frame")
    assert set(FRAME_PARTS) | {"Conv", "C3", "SPPF", "Detect", "all"} <= set(found)
    assert all(found[part] > 0 for part in FRAME_PARTS)
    assert sum(found[part] for part in (*FRAME_PARTS, "other")) == pytest.approx(found["all"], abs=0.05)
    assert (folder / "profile.json").is_file()


def test_a_large_trace_is_compressed(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(step_profile, "LARGE", 10)
    profile = StepProfile(1, tmp_path, ("part",), "batch")
    for _ in range(WARM_UP + 1 + TRACED):
        profile.clock.begin_step()
        profile.clock.enter("part")
        torch.zeros(3).sum()
        profile.clock.end_step()
        profile.after_step()
    assert profile.is_done and [file.name for file in tmp_path.iterdir()] == ["profile.json.gz"]
    with gzip.open(tmp_path / "profile.json.gz", "rt") as trace:
        assert json.load(trace)["traceEvents"]


def test_a_network_whose_layers_cannot_be_told_apart_is_one_part(tmp_path):
    whole = SimpleNamespace()
    profile = step_profile.FrameProfile(1, tmp_path, whole, torch.device("cpu"))
    assert profile._layers is None
    profile.close()
