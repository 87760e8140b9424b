"""Processes of a study: lock files, jobs that fail or are waited for, and what a killed study leaves running."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from study_jobs import be_killed, crash, do_nothing, raise_user_error, write

from utils import lock_file as locks
from utils.compare.process_pool import Job, ProcessPool
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
def test_jobs_are_distributed_over_devices(monkeypatch, gpus, device, jobs, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert devices_of(CompareConfig(device=device, jobs=jobs)) == expected


# ---- lock files ----


def test_a_lock_is_held_while_its_process_lives(tmp_path):
    path = tmp_path / "a" / "lock"
    with locks.hold_lock(path):
        assert locks.lock_holder(path) == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(locks.LockedError, match=str(os.getpid())), locks.hold_lock(path):
            pass
        assert path.exists()
    assert not path.exists() and locks.lock_holder(path) == ""
    with locks.hold_lock(path):
        pass


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    content = {**locks._this_process(), "pid": child.pid, "born": locks._start_time(child.pid)}
    path = tmp_path / "lock"
    child.wait()
    # gone; its id used again; no process number; torn; no lock file
    for stale in (content, {**content, "pid": os.getpid(), "born": "1"}, {**content, "pid": 10**30}, {"pid": 3}, [1]):
        path.write_text(json.dumps(stale))
        with locks.hold_lock(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lock_of_another_host_lives_by_its_touches(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "born": "5"}))
    assert locks.lock_holder(path) == "process 1 on elsewhere"
    old = time.time() - locks.STALE_AFTER - 1
    os.utime(path, (old, old))
    assert locks.lock_holder(path) == ""
    locks.touch_lock(path)
    assert locks.lock_holder(path)


MACHINE = {"host": "elsewhere", "boot": "another start of the system", "pid_namespace": "pid:[1]"}


@pytest.mark.parametrize("key", MACHINE)
@pytest.mark.parametrize("is_living_here", [False, True])
def test_a_process_number_means_nothing_in_another_container_host_or_boot(tmp_path, key, is_living_here):
    """The number of a process there may be free here, or that of another process; only the touches count."""
    pid = os.getpid() if is_living_here else 2**22 - 1
    content = {**locks._this_process(), "pid": pid, key: MACHINE[key]}
    path = tmp_path / "lock"
    path.write_text(json.dumps(content))
    with pytest.raises(locks.LockedError, match=f"process {pid} on "), locks.hold_lock(path):
        pass
    old = time.time() - locks.STALE_AFTER - 1
    os.utime(path, (old, old))
    with locks.hold_lock(path):
        assert json.loads(path.read_text()) == locks._this_process()


def test_a_lock_of_an_older_version_lives_by_its_touches(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 2**22 - 1, "host": socket.gethostname(), "born": "5"}))
    assert locks.lock_holder(path)
    os.utime(path, (1, 1))
    assert not locks.lock_holder(path)


def test_the_age_of_a_lock_is_measured_by_the_clock_of_the_file_system(tmp_path, monkeypatch):
    """This machine's clock is an hour ahead, or behind: neither gives a lock away, nor keeps a stale one."""
    path = tmp_path / "lock"
    path.write_text(json.dumps({**locks._this_process(), "host": "elsewhere"}))
    now = time.time()
    for error in (3600, -3600):
        monkeypatch.setattr(locks.time, "time", lambda error=error: now + error)
        locks.touch_lock(path)
        assert locks.lock_holder(path)
        os.utime(path, (now - locks.STALE_AFTER - 60, now - locks.STALE_AFTER - 60))
        assert not locks.lock_holder(path)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_a_process_that_another_user_hides_lives_by_its_touches(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.write_text(json.dumps(locks._this_process()))
    monkeypatch.setattr(locks, "_start_time", lambda pid: "")
    assert locks.lock_holder(path)
    os.utime(path, (1, 1))
    assert not locks.lock_holder(path)


def test_a_lock_that_was_taken_over_is_left_to_its_new_holder(tmp_path):
    path = tmp_path / "lock"
    with locks.hold_lock(path):
        path.write_text(json.dumps({**locks._this_process(), "host": "elsewhere"}))
    assert locks.lock_holder(path).endswith("on elsewhere")


@pytest.mark.skipif(sys.platform != "linux", reason="PID namespaces are Linux's")
def test_a_lock_holds_in_another_pid_namespace(tmp_path):
    """A real second namespace with the same host name and boot: there, this process's number is another's or free."""
    script = (
        "import sys; from pathlib import Path; from utils.lock_file import lock_holder\n"
        "print(lock_holder(Path(sys.argv[1])))"
    )
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    try:
        possible = subprocess.run([*unshare, "true"], capture_output=True, timeout=30).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("this system makes no namespaces")
    path = tmp_path / "lock"
    with locks.hold_lock(path):
        seen = subprocess.run(
            [*unshare, sys.executable, "-c", script, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert seen.stdout.strip() == f"process {os.getpid()} on {socket.gethostname()}", seen.stderr
        os.utime(path, (1, 1))
        seen = subprocess.run(
            [*unshare, sys.executable, "-c", script, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert seen.stdout.strip() == "", seen.stderr


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
            tmp_path / f"{name}.lock",
            tmp_path / f"{name}.log",
            (tmp_path / name).exists,
            lambda reason, name=name: reasons.update({name: reason}),
        )
        for name, work in works.items()
    ]
    ProcessPool(["0", "1"], 0, on_end=lambda job: ended.append(job.name)).run(jobs)
    assert sorted(ended) == sorted(works)
    assert {(tmp_path / name).read_text().split()[0] for name in ("fine", "also fine")} <= {"0", "1"}
    assert reasons.pop("user") == "labels/7.txt: no such class"
    assert (
        "in two lines" in reasons.pop("crash") and "RuntimeError: it is broken" in (tmp_path / "crash.log").read_text()
    )
    assert "SIGKILL" in reasons.pop("killed") and "without a result" in reasons.pop("nothing") and not reasons


def test_a_job_that_another_process_has_locked_is_retried(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.compare.process_pool.RETRY_AFTER", 0.2)
    lock, file, waited = tmp_path / "lock", tmp_path / "file", []
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "born": ""}))

    def wait(job):
        waited.append(locks.lock_holder(lock))
        lock.unlink()

    job = Job("job", write, (file, 0.0), lock, tmp_path / "log", file.exists, pytest.fail)
    ProcessPool([""], 0, on_wait=wait).run([job])
    assert file.exists() and waited == ["process 1 on elsewhere"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_job_whose_study_was_killed_ends_its_workers_too(tmp_path):
    """A worker that is only starting does not notice that its parent is gone, and would wait forever."""
    script = tmp_path / "study.py"
    script.write_text(
        f"import sys\nsys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]!r}\n"
        "from pathlib import Path\nfrom study_jobs import have_a_worker\n"
        "from utils.compare.process_pool import Job, ProcessPool\n"
        "if __name__ == '__main__':\n    here = Path(sys.argv[1])\n"
        "    job = Job('job', have_a_worker, (here / 'worker', 60.0), here / 'lock', here / 'log', "
        "(here / 'done').exists, print)\n    ProcessPool([''], 0).run([job])\n"
    )
    study = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    try:
        wait_for((tmp_path / "worker").exists, 60)
    finally:
        study.kill()
        study.wait()
    worker = int((tmp_path / "worker").read_text())
    wait_for(lambda: locks._start_time(worker) in ("", "gone"), 30)


def wait_for(happened, seconds):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
