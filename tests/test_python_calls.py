"""train.run, val.run, detect.run and the others from Python: logged as the commands, one kind of error, records."""

import errno
import logging
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from small_data import drawn_yaml
from small_models import TINY

import compare
import detect
import export
import train
import val
from models.yolo import Model
from utils.checkpoint import checkpoint_of, write_checkpoint
from utils.cli import run_from_python
from utils.engine.detection import DetectionStream
from utils.errors import UserError
from utils.files import ROOT
from utils.images import write_image
from utils.log import LOGGER, messages_shown


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    return str(write_checkpoint(checkpoint_of(Model(TINY), names=["a", "b", "c"]), path))


@pytest.fixture
def images(tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(3):
        write_image(tmp_path / "in" / f"{index}.png", np.full((64, 96, 3), 40 * index, np.uint8))
    return tmp_path / "in"


def detected(weights, images, folder, **options):
    small = dict(imgsz=64, conf_thres=0.001, max_det=4, device="cpu", project=str(folder), name="out")
    return detect.run(weights=weights, source=str(images), **{**small, **options})


def test_a_call_does_what_the_command_does_and_returns_records(weights, images, tmp_path):
    found = detected(weights, images, tmp_path, save_txt=True, save_json=True)
    assert found.save_dir == tmp_path / "out" and len(found) == 3 and found.failures == ()
    assert sorted(path.name for path in found.save_dir.iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
        "labels",
        "predictions.json",
    ]
    for prediction, index in zip(found, range(3), strict=True):
        assert prediction.frame.path.endswith(f"{index}.png") and prediction.frame.size == (64, 96)
        assert prediction.frame.image.size == 0  # its pixels are not kept
        assert prediction.rows().shape == (4, 6) and (prediction.xywhn() <= 1).all()
    labels = np.loadtxt(found.save_dir / "labels" / "0.txt", ndmin=2)
    assert np.allclose(labels[::-1, 1:], found[0].xywhn(), atol=1e-4)


def test_inputs_that_fail_are_listed(weights, images, tmp_path):
    (images / "broken.png").write_bytes(b"no image")
    found = detected(weights, images, tmp_path, nosave=True)
    assert len(found) == 3 and [failure.path for failure in found.failures] == [str(images / "broken.png")]


def test_a_stream_yields_when_files_are_written_and_ends_when_left(weights, images, tmp_path):
    with detected(weights, images, tmp_path, save_csv=True, stream=True) as stream:
        assert isinstance(stream, DetectionStream) and stream.save_dir == tmp_path / "out" and not stream.live
        for count, prediction in enumerate(stream):
            assert (stream.save_dir / prediction.frame.name).is_file()
            assert prediction.frame.image.shape == (64, 96, 3)
            if count == 1:
                break
    assert not (stream.save_dir / "2.png").exists() and stream.outcome is None
    assert len((stream.save_dir / "predictions.csv").read_text().splitlines()) == 1 + 2 * 4
    whole = detected(weights, images, tmp_path, nosave=True, stream=True, name="whole")
    assert len(list(whole)) == 3 and whole.outcome.inputs == 3


def test_a_stream_that_nobody_reads_leaves_no_folder(weights, images, tmp_path):
    stream = detected(weights, images, tmp_path, nosave=True, stream=True)
    assert (tmp_path / "out").is_dir()
    stream.close()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", [train, val, detect, export, compare])
def test_what_the_command_line_would_refuse_is_a_user_error(script):
    with pytest.raises(UserError, match=r"^devise: no such option \(did you mean device") as found:
        script.run(devise="cpu")
    assert "\n" not in str(found.value)
    with pytest.raises(UserError, match="device"):
        script.run(device=["cpu"])


def test_errors_of_the_run_are_of_the_same_kind(weights, images, tmp_path):
    for call in (
        lambda: detect.run(weights="gone.pt", source=str(images)),
        lambda: detected(weights, tmp_path / "gone", tmp_path),
        lambda: detected(weights, tmp_path / "gone", tmp_path, stream=True),
        lambda: val.run(weights=weights, data=str(tmp_path / "gone.yaml")),
        lambda: train.run(cfg="gone.yaml", data=str(drawn_yaml(tmp_path, train=2, val=2)), project=str(tmp_path)),
    ):
        with pytest.raises(UserError, match="gone") as found:
            call()
        assert "\n" not in str(found.value)


def test_a_full_disk_is_a_user_error_and_a_mistake_of_ours_is_not():
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a.png")

    with pytest.raises(UserError, match="^runs/a.png: No space left on device; make room"):
        run_from_python(full, dict)
    with pytest.raises(ZeroDivisionError):
        run_from_python(lambda _: 1 / 0, dict)


def test_a_call_in_a_program_logs_what_the_command_logs(weights, images, tmp_path):
    """Lines of the command and of the call, in processes that have set up no logging."""
    arguments = (
        f"--weights {weights} --source {images} --imgsz 64 --device cpu --nosave --project {tmp_path} --exist-ok"
    )
    command = subprocess.run(
        [sys.executable, "detect.py", *arguments.split()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code = f"""
        import logging
        import detect
        options = dict(weights={weights!r}, source={str(images)!r}, imgsz=64, device="cpu", nosave=True,
                       project={str(tmp_path)!r}, exist_ok=True)
        detect.run(**options)
        print("between", logging.getLogger("yolo").handlers)
        logging.getLogger("yolo").setLevel(logging.WARNING)
        detect.run(**options)
        print("quiet")
        logging.getLogger("yolo").setLevel(logging.NOTSET)
        logging.basicConfig(format="mine %(message)s")
        detect.run(**options)
        """
    call = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    def stable(text):
        return [line.split("Done.")[0] for line in text.splitlines() if "Speed" not in line]

    shown, _, rest = call.stdout.partition("between []\n")
    assert stable(shown) == stable(command.stdout) and len(stable(shown)) >= 4
    assert rest == "quiet\n" and f"mine image 1/3 {images / '0.png'}" in call.stderr


def test_logging_is_as_it_was_afterwards():
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    with pytest.raises(ValueError), messages_shown():
        assert LOGGER.isEnabledFor(logging.INFO)
        raise ValueError
    assert (LOGGER.handlers, LOGGER.level, LOGGER.propagate) == before
