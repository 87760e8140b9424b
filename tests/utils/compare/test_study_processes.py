"""Processes of a study: lock files, jobs that fail or are waited for, and what a killed study leaves running."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from study_jobs import be_killed, crash, do_nothing, free_lock_when_stopped, raise_user_error, write

from utils import lock_file as locks
from utils.compare.execution import devices_of
from utils.compare.process_pool import EXIT_LOCKED, Job, ProcessPool, _watch_parent
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


def race_for(path, rounds, barrier, wins):
    """Be one of several that want the same lock at the same moment; counts the rounds in which it was taken."""
    for _ in range(rounds):
        barrier.wait()
        with contextlib.suppress(locks.LockedError), locks.hold_lock(path):
            with wins.get_lock():
                wins.value += 1
            barrier.wait()  # held until all others have tried
            barrier.wait()
            continue
        barrier.wait()
        barrier.wait()


@pytest.mark.parametrize("content", [None, {"pid": 2**22 - 1}], ids=["free", "stale"])
def test_one_of_many_gets_a_lock_without_locks_of_the_system(tmp_path, monkeypatch, content):
    """Four at once, 25 times: always exactly one, by the creation of a file and a rename only."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    context, rounds, path = multiprocessing.get_context("fork"), 25, tmp_path / "lock"
    barrier, wins = context.Barrier(4), context.Value("i", 0)
    if content:
        path.write_text(json.dumps({**locks._this_process(), "born": "1", **content}))
    others = [context.Process(target=race_for, args=(path, rounds, barrier, wins)) for _ in range(3)]
    for process in others:
        process.start()
    race_for(path, rounds, barrier, wins)
    for process in others:
        process.join(60)
    assert wins.value == rounds and [process.exitcode for process in others] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_who_found_a_stale_lock_and_comes_late_does_not_take_that_of_the_new_holder(tmp_path, monkeypatch):
    """Between looking and taking, another process took it over and its turn ended, and even its clock looks stale."""
    path, new = tmp_path / "lock", {**locks._this_process(), "host": "elsewhere"}
    path.write_text(json.dumps({**new, "host": "gone"}))
    os.utime(path, (1, 1))
    turn = locks._turn_to_replace

    def slow_turn(path, found):
        path.write_text(json.dumps(new))
        os.utime(path, (1, 1))
        return turn(path, found)

    monkeypatch.setattr(locks, "_turn_to_replace", slow_turn)
    with pytest.raises(locks.LockedError, match="which was faster"), locks.hold_lock(path):
        pass
    assert json.loads(path.read_text()) == new and [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_the_turn_of_a_process_that_was_killed_in_it_here_is_given_on_at_once(tmp_path):
    path = tmp_path / "lock"
    begin = f"import os; from pathlib import Path; from utils import lock_file; path = Path({str(path)!r})\n"
    killed = "with lock_file._turn_to_replace(path, {}): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", begin + killed], cwd=ROOT).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with locks.hold_lock(path):
        assert list(tmp_path.iterdir()) == [path]


def test_the_turn_of_a_process_that_died_in_it_is_given_to_another(tmp_path):
    path = tmp_path / "lock"
    with locks._turn_to_replace(path, {}):
        (turn,) = tmp_path.iterdir()
        with pytest.raises(locks.LockedError, match="takes it over"), locks.hold_lock(path):
            pass
    assert not turn.exists()
    turn.touch()
    os.utime(turn, (1, 1))
    with locks.hold_lock(path):
        assert not turn.exists()


def test_a_lock_is_lost_when_it_is_anothers_or_gone(tmp_path):
    path = tmp_path / "lock"
    with locks.hold_lock(path):
        assert not locks.is_lost(path)
        path.write_text("{")  # a file system that gives nonsense takes nothing away
        assert not locks.is_lost(path)
        path.write_text(json.dumps({**locks._this_process(), "born": "1"}))
        assert locks.is_lost(path)
        path.unlink()
        assert locks.is_lost(path)


# ---- processes ----


class Parent:
    sentinel = 0


def test_a_process_that_was_suspended_until_its_lock_was_taken_over_ends(tmp_path, monkeypatch):
    ended, path = [], tmp_path / "lock"
    monkeypatch.setattr("multiprocessing.parent_process", Parent)
    monkeypatch.setattr(
        "utils.compare.process_pool.connection.wait", lambda sentinels, seconds: [] if not ended else [1]
    )
    monkeypatch.setattr("utils.compare.process_pool._end_at_once", ended.append)
    path.write_text(json.dumps({**locks._this_process(), "host": "elsewhere"}))
    _watch_parent(path)
    assert ended == [EXIT_LOCKED, 1]


def test_a_job_that_has_failed_elsewhere_or_is_locked_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.compare.process_pool.RETRY_AFTER", 0.1)
    monkeypatch.setattr("utils.compare.process_pool._run_job", None)  # cannot be called
    ended, waited, lock = [], [], tmp_path / "lock"
    lock.write_text(json.dumps({**locks._this_process(), "host": "elsewhere"}))

    def wait(job):
        waited.append(job.name)
        (tmp_path / "file").touch()

    failed, locked = (
        Job(name, write, (), lock, tmp_path / "log", (tmp_path / "file").exists, pytest.fail, has_failed)
        for name, has_failed in (("failed", lambda: "an error"), ("locked", lambda: ""))
    )
    ProcessPool([""], 0, on_end=lambda job: ended.append(job.name), on_wait=wait).run([failed, locked])
    assert ended == ["failed", "locked"] and waited == ["locked"]


def test_a_job_that_is_asked_to_end_frees_its_lock(tmp_path):
    reasons, lock, file = [], tmp_path / "lock", tmp_path / "pid"

    def tick():
        if file.exists() and file.read_text():
            os.kill(int(file.read_text()), signal.SIGTERM)
            file.unlink()

    job = Job("job", free_lock_when_stopped, (file, 60.0), lock, tmp_path / "log", lambda: False, reasons.append)
    ProcessPool([""], 0, on_tick=tick).run([job])
    assert not lock.exists() and ["ended by SIGTERM" in reason for reason in reasons] == [True]


HOST = """import socket, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from study_jobs import append
from utils import lock_file
from utils.compare import process_pool
from utils.compare.process_pool import Job, ProcessPool

name, clock_error, true_time = sys.argv[1], float(sys.argv[2]), time.time
socket.gethostname = lambda: name
time.time = lambda: true_time() + clock_error
lock_file.STALE_AFTER, lock_file.TOUCH_INTERVAL, process_pool.TOUCH_INTERVAL = 6.0, 0.5, 0.5
process_pool.RETRY_AFTER = 0.2

if __name__ == "__main__":
    here = Path({folder!r})

    def is_done(file):
        return file.exists() and "done" in file.read_text()

    jobs = [
        Job(str(each), append, (here / str(each), 1.0), here / f"{{each}}.lock", here / f"{{name}}.log",
            lambda file=here / str(each): is_done(file), print)
        for each in range(6)
    ]
    ProcessPool([name], 0).run(jobs)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the script's changes reach its processes by spawning")
def test_hosts_whose_clocks_differ_by_hours_divide_the_jobs(tmp_path):
    """Three hosts, one an hour ahead and one two hours behind; one dies, and its job is taken over when it is stale."""
    folder = tmp_path / "shared"
    folder.mkdir()
    script = tmp_path / "host.py"
    script.write_text(HOST.format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder)))
    errors = {"ahead": 3600, "behind": -7200, "dying": 600}
    hosts = {name: subprocess.Popen([sys.executable, str(script), name, str(error)]) for name, error in errors.items()}

    def begun_by_the_dying():
        files = [folder / str(each) for each in range(6)]
        return [file for file in files if file.exists() and file.read_text() == "begun by dying\n"]

    wait_for(lambda: begun_by_the_dying() or hosts["dying"].poll() is not None, 60)
    hosts["dying"].kill()
    assert [hosts[name].wait(120) for name in ("ahead", "behind")] == [0, 0]
    hosts["dying"].wait()
    texts = [(folder / str(each)).read_text().splitlines() for each in range(6)]
    cut = [lines for lines in texts if len(lines) == 3]
    assert len(cut) == 1 and cut[0][0] == "begun by dying" and cut[0][1].split()[-1] != "dying"
    assert all([line.split()[0] for line in lines] == ["begun", "done"] for lines in texts if lines not in cut)
    assert all(lines[-1].split()[-1] == lines[-2].split()[-1] for lines in texts)
    assert {lines[-1].split()[-1] for lines in texts} >= {"ahead", "behind"} and not list(folder.glob("*.lock*"))


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
