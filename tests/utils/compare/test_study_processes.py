"""Processes of a study: claims, pieces that fail or are waited for, and what a killed study leaves running."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from study_jobs import be_killed, crash, do_nothing, raise_user_error, write

from utils.compare import lock_file as locks
from utils.compare.process_pool import Job, Pool
from utils.compare.study import devices_of
from utils.config.compare_options import CompareConfig
from utils.files import ROOT

# ---- devices ----


@pytest.mark.parametrize(
    "gpus, device, jobs, expected",
    [
        (0, "", 2, ["cpu", "cpu"]),
        (0, "cpu", 1, ["cpu"]),
        (2, "", 1, ["0"]),
        (2, "", 4, ["0", "1", "0", "1"]),
        (8, "1, 3", 3, ["1", "3", "1"]),
        (2, "cpu", 2, ["cpu", "cpu"]),
    ],
)
def test_jobs_are_dealt_out_over_devices(monkeypatch, gpus, device, jobs, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert devices_of(CompareConfig(device=device, jobs=jobs)) == expected


# ---- claims ----


def test_a_claim_is_held_while_its_process_lives(tmp_path):
    path = tmp_path / "a" / "claim"
    with locks.claimed(path):
        assert locks.holder_of(path) == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(locks.HeldError, match=str(os.getpid())), locks.claimed(path):
            pass
        assert path.exists()
    assert not path.exists() and locks.holder_of(path) == ""
    with locks.claimed(path):
        pass


def test_a_claim_of_a_dead_process_is_taken_over(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    claim = {"pid": child.pid, "host": socket.gethostname(), "born": locks._born(child.pid)}
    path = tmp_path / "claim"
    child.wait()
    for stale in (claim, {**claim, "pid": os.getpid(), "born": "1"}, {"pid": 3}):  # gone; its number used again; torn
        path.write_text(json.dumps(stale))
        with locks.claimed(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_claim_of_another_host_lives_by_its_touches(tmp_path):
    path = tmp_path / "claim"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "born": "5"}))
    assert locks.holder_of(path) == "process 1 on elsewhere"
    old = time.time() - locks.SILENT - 1
    os.utime(path, (old, old))
    assert locks.holder_of(path) == ""
    locks.touch(path)
    assert locks.holder_of(path)


# ---- processes ----


def test_a_failure_ends_its_own_job_only(tmp_path):
    ended, reasons = [], {}
    works = {
        "fine": write,
        "user": raise_user_error,
        "crash": crash,
        "killed": be_killed,
        "nothing": do_nothing,
        "also fine": write,
    }
    jobs = [
        Job(
            name,
            work,
            (tmp_path / name, 0.0),
            tmp_path / f"{name}.claim",
            tmp_path / f"{name}.log",
            (tmp_path / name).exists,
            lambda reason, name=name: reasons.update({name: reason}),
        )
        for name, work in works.items()
    ]
    Pool(["0", "1"], 0, on_end=lambda job: ended.append(job.name)).run(jobs)
    assert sorted(ended) == sorted(works)
    assert {(tmp_path / name).read_text().split()[0] for name in ("fine", "also fine")} <= {"0", "1"}
    assert reasons.pop("user") == "labels/7.txt: no such class"
    assert (
        "in two lines" in reasons.pop("crash") and "RuntimeError: it is broken" in (tmp_path / "crash.log").read_text()
    )
    assert "SIGKILL" in reasons.pop("killed") and "without a result" in reasons.pop("nothing") and not reasons


def test_a_job_that_another_process_has_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.compare.process_pool.PATIENCE", 0.2)
    claim, file, waited = tmp_path / "claim", tmp_path / "file", []
    claim.write_text(json.dumps({"pid": 1, "host": "elsewhere", "born": ""}))

    def wait(job):
        waited.append(locks.holder_of(claim))
        claim.unlink()

    Pool([""], 0, on_wait=wait).run([Job("job", write, (file, 0.0), claim, tmp_path / "log", file.exists, pytest.fail)])
    assert file.exists() and waited == ["process 1 on elsewhere"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_job_whose_study_was_killed_ends_its_workers_too(tmp_path):
    """A worker that is only starting learns of no parent, and would wait for work for ever."""
    script = tmp_path / "study.py"
    script.write_text(
        f"import sys\nsys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]!r}\n"
        "from pathlib import Path\nfrom study_jobs import have_a_worker\nfrom utils.compare.process_pool import Job, Pool\n"
        "if __name__ == '__main__':\n    here = Path(sys.argv[1])\n    job = Job('job', have_a_worker, (here / 'worker', 60.0), "
        "here / 'claim', here / 'log', (here / 'done').exists, print)\n    Pool([''], 0).run([job])\n"
    )
    study = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    try:
        wait_for((tmp_path / "worker").exists, 60)
    finally:
        study.kill()
        study.wait()
    worker = int((tmp_path / "worker").read_text())
    wait_for(lambda: locks._born(worker) in ("", "gone"), 30)


def wait_for(happened, seconds):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
