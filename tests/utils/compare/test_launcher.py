"""Workers of a study as jobs of submitit: options, Slurm's script, studies with workers that are killed or requeued."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_data import drawn_yaml

from utils.checkpoint import read_checkpoint
from utils.compare.launcher import StudyWorker, make_executor, make_workers, parse_launch_options
from utils.compare.plan import open_study
from utils.compare.preparation import prepare
from utils.config import from_options
from utils.config.compare_options import CompareConfig, read_study
from utils.errors import ConfigError
from utils.files import ROOT
from utils.stop_signals import StopRequest

SMALL = dict(imgsz=64, batch_size=8, workers=0, device="cpu", noautoanchor=True, cost_seconds=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data yaml of 16 + 4 drawn images."""
    return drawn_yaml(tmp_path_factory.mktemp("data"), train=16, val=4)


def planned(data, folder, **changes):
    """Return the plan of a study of two runs that is prepared and not begun."""
    options = {**SMALL, "epochs": 1, "seeds": (2,), **changes}
    config = from_options(CompareConfig, cfg=["yolov5n.yaml"], data=data, project=folder, name="study", **options)
    return prepare(*open_study(config))


# ---- options ----


def test_launch_options_are_read_and_checked():
    texts = ("timeout_min=240", "slurm_partition=gpu", "slurm_comment=a=b", "mem_gb=-1")
    assert parse_launch_options(texts) == {
        "timeout_min": 240,
        "slurm_partition": "gpu",
        "slurm_comment": "a=b",
        "mem_gb": -1,
    }
    with pytest.raises(ConfigError, match="--launch-options gpu: expected KEY=VALUE"):
        CompareConfig(launcher="submitit", launch_options=("gpu",))
    with pytest.raises(ConfigError, match="--launch-options: are for --launcher submitit"):
        CompareConfig(launch_options=("timeout_min=1",))
    with pytest.raises(ConfigError, match="launcher"):
        CompareConfig(launcher="make")


def test_a_study_yaml_does_not_say_who_executes_it(tmp_path):
    config = CompareConfig(cfg=("a.yaml",), launcher="submitit", launch_options=("timeout_min=1",))
    assert not {"launcher", "launch_options"} & set(config.study_content())
    file = tmp_path / "study.yaml"
    file.write_text("cfg: [yolov5n.yaml]\nlauncher: submitit\n")
    with pytest.raises(ConfigError, match=r"study.yaml: launcher: is no option of a study yaml; give --launcher"):
        read_study(file, CompareConfig())
    file.write_text("cfg: [yolov5n.yaml]\n")
    assert read_study(file, CompareConfig(study=str(file), launcher="submitit")).launcher == "submitit"


def test_errors_of_the_launcher_are_one_line(data, tmp_path, monkeypatch):
    pytest.importorskip("submitit")

    def refused(*options):
        with pytest.raises(ConfigError) as caught:
            make_executor(planned(data, tmp_path, launcher="submitit", launch_options=options or None))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
        return str(caught.value)

    assert refused("cluster=pbs") == "--launch-options cluster=pbs: expected slurm or local"
    assert "Unknown executor 'time'" in refused("cluster=local", "time_min=3")
    assert "did you mean slurm_partition" in refused("cluster=local", "slurm_partitoin=gpu")
    assert '"timeout_min" expected type' in refused("cluster=local", "timeout_min=soon")
    assert "needs its time limit in minutes, such as timeout_min=240" in refused("cluster=slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "srun" in refused("cluster=slurm", "timeout_min=5")
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert refused() == "--launcher submitit: submitit is not installed; pip install -r requirements-launch.txt"


# ---- workers ----


def test_there_are_no_more_workers_than_runs_and_each_has_its_device(data, tmp_path, monkeypatch):
    plan = planned(data, tmp_path, seeds=(3,), jobs=2, device="cpu", launcher="submitit")
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    workers = make_workers(plan, "local")
    assert [(each.plan.config.device, each.plan.config.jobs, each.threads) for each in workers] == [("cpu", 1, 4)] * 2
    assert workers[0].environment == {"CUDA_VISIBLE_DEVICES": "2,3"}  # submitit's local executor would hide them
    assert [each.plan.config.launcher for each in workers] == ["", ""]
    assert len(make_workers(planned(data, tmp_path, seeds=(3,), jobs=9), "slurm")) == 3
    assert make_workers(plan, "slurm")[0].threads == 0  # a job of Slurm has processors of its own


@pytest.mark.parametrize("name, requeued", [("SIGUSR2", True), ("SIGTERM", False), ("SIGUSR1", False)])
def test_a_worker_stops_first_and_then_lets_submitit_requeue_it(monkeypatch, name, requeued):
    """Ours stands after submitit's handlers, which would requeue the job at once, or drop SIGTERM."""
    signum, order = getattr(signal, name), []
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}

    def theirs(received, frame):
        order.append(("submitit", received))
        sys.exit(144)

    def work(self):
        try:
            os.kill(os.getpid(), signum)
            time.sleep(30)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # the scheduler's second signal, while the run saves its state
            order.append(("saved", signum))

    monkeypatch.setattr(StudyWorker, "_work", work)
    monkeypatch.setattr(StopRequest, "repeats_end", True)
    try:
        for each in before:
            signal.signal(each, theirs)
        with pytest.raises(SystemExit) as ended:
            StudyWorker(None)()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert order == [("saved", signum)] + ([("submitit", signum)] if requeued else [])
    assert ended.value.code == (144 if requeued else 128 + signum)


def test_slurm_gets_a_script_that_finds_the_project(data, tmp_path, monkeypatch):
    """With an sbatch and an srun of our own: what would be submitted."""
    pytest.importorskip("submitit")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "srun": "exit 1",
        "sbatch": 'cp "$1" "$(dirname "$0")/script"; echo Submitted batch job 77',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    options = ("timeout_min=240", "slurm_partition=gpu", "gpus_per_node=1", "slurm_signal_delay_s=120")
    plan = planned(data, tmp_path, launcher="submitit", launch_options=options)
    cluster, executor = make_executor(plan)
    job = executor.submit(make_workers(plan, cluster)[0])
    script = (programs / "script").read_text()
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert cluster == "slurm" and job.job_id == "77"
    assert {"time=240", "partition=gpu", "gpus-per-node=1", "signal=USR2@120", "job-name=study-study"} <= set(lines)
    assert f"env PYTHONPATH={ROOT}:/elsewhere {sys.executable} -u -m submitit.core._submit" in script
    assert job.submission().function.plan.folder == plan.folder


# ---- whole studies ----


def arguments(data, folder, name, *more):
    flags = ["--cfg", "yolov5n.yaml", "yolov5n_CBAM.yaml", "--data", data, "--seeds", "3", "--epochs", "4"]
    flags += ["--imgsz", "64", "--batch-size", "8", "--workers", "0", "--device", "cpu", "--noautoanchor"]
    flags += ["--cost-seconds", "0", "--title", "Small", "--project", folder, "--name", name, *more]
    return [sys.executable, str(ROOT / "compare.py"), *map(str, flags)]


def start(command, log):
    """Start a program in a folder that is not the project's, with one thread, as every run has."""
    with log.open("w") as stream:
        return subprocess.Popen(
            command,
            cwd=log.parent,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        )


def wait_for(happened, seconds=900):
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def process_in_its_second_epoch(folder, besides=()):
    """Return the run and its process, of the first run that has one epoch done and is at work."""
    for progress in folder.glob("runs/*/seed*/progress.json"):
        lock = progress.with_name("claim.json")
        try:
            done, pid = len(json.loads(progress.read_text())["seconds"]), int(json.loads(lock.read_text())["pid"])
        except (OSError, ValueError):
            continue
        if 1 <= done < 3 and parent_of(pid) not in besides:
            return progress.parent, pid
    return None


TIMES = {"seconds", "cost", "date", "folder", "command", "latency_ms"}


def without_times(value):
    """Return what a report says, without what differs between two executions of the same study: times and costs."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def learning(folder):
    with (folder / "results.csv").open(newline="") as stream:
        return list(csv.reader(stream))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_four_workers_one_killed_make_the_serial_study(data, tmp_path):
    """No run is done twice, the killed worker's run is resumed by another, and the report is the serial one's."""
    pytest.importorskip("submitit")
    serial = start(arguments(data, tmp_path, "serial"), tmp_path / "serial.log")
    assert serial.wait(1800) == 0, (tmp_path / "serial.log").read_text()

    folder, log = tmp_path / "many", tmp_path / "many.log"
    many = ["--jobs", "4", "--launcher", "submitit", "--launch-options", "cluster=local"]
    study = start(arguments(data, tmp_path, "many", *many), log)
    killed, pid = wait_for(lambda: process_in_its_second_epoch(folder))
    os.kill(parent_of(pid), signal.SIGKILL)
    assert study.wait(1800) == 0, log.read_text()

    first = (folder / "jobs").glob("*_log.out")
    assert len(list(first)) == 4 and "by 4 workers, jobs of submitit (local)" in log.read_text()
    reports = [json.loads((tmp_path / name / "compare.json").read_text()) for name in ("serial", "many")]
    assert without_times(reports[0]) == without_times(reports[1])
    logs = {file.parent: file.read_text() for file in folder.glob("runs/*/seed*/run.log")}
    assert len(logs) == 6 and {run for run, text in logs.items() if "resuming" in text} == {killed}
    assert all(text.count("epochs completed in") == 1 for text in logs.values())
    for run in logs:
        other = tmp_path / "serial" / run.relative_to(folder)
        mine, its = (read_checkpoint(place / "weights" / "best.pt").state for place in (run, other))
        assert learning(run) == learning(other) and all(torch.equal(mine[name], its[name]) for name in its)
    assert not list(folder.rglob("claim.json")) and not list(folder.rglob("*.turn"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_preempted_worker_is_requeued_and_resumes_its_run(data, tmp_path):
    pytest.importorskip("submitit")
    folder, log = tmp_path / "study", tmp_path / "study.log"
    options = ["--seeds", "1", "--launcher", "submitit", "--launch-options", "cluster=local"]
    study = start(arguments(data, tmp_path, "study", *options), log)
    run, pid = wait_for(lambda: process_in_its_second_epoch(folder))
    os.kill(parent_of(pid), signal.SIGUSR2)
    assert study.wait(1800) == 0, log.read_text()
    assert "Requeued job" in "".join(file.read_text() for file in folder.glob("jobs/*_log.out"))
    assert "resuming" in (run / "run.log").read_text() and "2 of 2 runs" in log.read_text()
    assert (run / "run.log").read_text().count("epochs completed in") == 1
    assert len(learning(run)) == 5 and not list(folder.rglob("failed.json"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_study_that_gets_sigterm_frees_its_locks(data, tmp_path):
    """Another host need not wait until the locks are old; the exit code is the shell's for the signal."""
    folder, log = tmp_path / "study", tmp_path / "study.log"
    study = start(arguments(data, tmp_path, "study", "--seeds", "1"), log)
    run, _ = wait_for(lambda: process_in_its_second_epoch(folder))
    study.send_signal(signal.SIGTERM)
    assert study.wait(120) == 128 + signal.SIGTERM
    assert "stopped; continue with" in log.read_text() and "ended by SIGTERM" in log.read_text()
    assert not list(folder.rglob("claim.json")) and not (run / "failed.json").exists()
