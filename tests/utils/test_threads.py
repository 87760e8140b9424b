"""Threads beside other processes: cores by affinity and quota, and waiting that yields while others are busy."""

import os
import subprocess
import sys
import threading
import time

import pytest

from utils import threads
from utils.files import ROOT
from utils.threads import CoreUse, CoreWatcher, limit_threads, usable_cores, yielding_threads

ALLOWED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _group(root, version: int, text: str) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    if version == 2:
        (root / "proc/self/cgroup").write_text("0::/job\n")
        folder = root / "sys/fs/cgroup/job"
        folder.mkdir(parents=True)
        (folder / "cpu.max").write_text(text)
    else:
        (root / "proc/self/cgroup").write_text("4:cpu,cpuacct:/job\n")
        folder = root / "sys/fs/cgroup/cpu/job"
        folder.mkdir(parents=True)
        quota, period = text.split()
        (folder / "cpu.cfs_quota_us").write_text(quota)
        (folder / "cpu.cfs_period_us").write_text(period)


@pytest.mark.parametrize(
    ("version", "text", "cores"),
    [
        (2, "100000 100000\n", 1),
        (2, "50000 100000\n", 1),
        (2, "max 100000\n", ALLOWED),
        (2, "999999999 1000\n", ALLOWED),
        (2, "damaged", ALLOWED),
        (1, "100000 100000", 1),
        (1, "-1 100000", ALLOWED),
    ],
)
def test_cores_by_quota(tmp_path, version, text, cores):
    _group(tmp_path, version, text)
    assert usable_cores(tmp_path) == cores


def test_without_groups_the_affinity_decides(tmp_path):
    assert usable_cores(tmp_path) == ALLOWED


def test_a_quota_limits_threads_unless_the_user_set_them():
    fresh, given, whole = {}, {"OMP_NUM_THREADS": "7"}, {}
    limit_threads(fresh, cores=ALLOWED - 1)
    limit_threads(given, cores=ALLOWED - 1)
    limit_threads(whole, cores=ALLOWED)
    assert fresh == {"OMP_NUM_THREADS": str(ALLOWED - 1)} and given == {"OMP_NUM_THREADS": "7"} and whole == {}


class _Steps(CoreUse):
    """The use of cores by a list: busy seconds, own seconds and clock at each reading."""

    def __init__(self, *readings):
        self.readings = list(readings)
        self.before = self._read()

    def _read(self):
        return self.readings.pop(0)


def test_the_cores_of_others_are_all_but_ones_own():
    use = _Steps((10.0, 1.0, 0.0), (12.0, 2.5, 1.0), (12.5, 3.5, 2.0), (12.5, 3.5, 2.0))
    assert [use.sample(), use.sample(), use.sample()] == [0.5, 0.0, 0.0]


def test_busy_time_counts_cores_of_the_affinity_alone(tmp_path, monkeypatch):
    ticks = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    stat.write_text(
        f"cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 {ticks} 0 {ticks} 500 70 0 {ticks} 40 0 0\n"
        f"cpu1 {5 * ticks} 0 0 0 0 0 0 0 0 0\ncpu10 {7 * ticks} 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 10})
    assert CoreUse(stat)._read()[0] == 10.0
    assert CoreUse(tmp_path / "none")._read()[0] == 0.0


def test_children_count_as_ones_own(tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    for thread, children in (("7", "11 12 "), ("8", ""), ("9", "13")):
        (tmp_path / "self/task" / thread).mkdir(parents=True)
        (tmp_path / "self/task" / thread / "children").write_text(children)
    for child, (user, system) in {"11": (ticks, 0), "12": (2 * ticks, 3 * ticks)}.items():  # 13 has ended meanwhile
        (tmp_path / child).mkdir()
        (tmp_path / child / "stat").write_text(f"{child} (a) b) S 1 2 3 4 5 6 7 8 9 10 {user} {system} 50 60\n")
    assert threads._seconds_of_children(tmp_path / "self") == 6.0
    assert threads._seconds_of_children(tmp_path / "none") == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_busy_child_does_not_count_as_another():
    use = CoreUse()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        deadline = time.perf_counter() + 1
        while time.perf_counter() < deadline:
            pass
        before, (_, own, elapsed) = use.before, use._read()
        child.kill()
    computed = own - before[1]
    assert computed >= 0.5 * (elapsed - before[2])  # at least the half that two processes get of one core


class _Crowd:
    """Counts how many there are."""

    present = 0

    def __init__(self):
        _Crowd.present += 1

    def disperse(self):
        _Crowd.present -= 1


def test_yields_at_once_and_waits_actively_after_a_while(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", sys)  # without it there are no threads to take care of
    watcher = CoreWatcher(_Steps((0, 0, 0)), _Crowd)
    seen = []
    for others in [0.0, 0.2, 0.3, 1.5, *[0.05] * 7, 0.15, *[0.05] * 8, 0.05, 2.0]:
        watcher.decide(others)
        seen.append(_Crowd.present)
    assert seen == [0, 0, 1, 1, *[1] * 7, 1, *[1] * 7, 0, 0, 1]
    watcher._yield_no_more()
    assert _Crowd.present == 0
    monkeypatch.delitem(sys.modules, "torch")
    watcher.decide(2.0)
    assert _Crowd.present == 0


def test_a_watcher_ends_and_leaves_nothing_behind():
    before = threading.active_count()
    with yielding_threads({}):
        running = threading.active_count()
    assert threading.active_count() == before
    assert running == before + (sys.platform == "linux")


@pytest.mark.parametrize("name", threads.WAIT_VARIABLES)
def test_a_way_of_waiting_that_the_user_set_stays(name):
    before = threading.active_count()
    with yielding_threads({name: "100"}):
        assert threading.active_count() == before


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is torch's library of threads on Linux alone")
def test_a_crowd_keeps_threads_of_its_own_and_returns_them():
    """In a fresh process with two threads: libgomp keeps one more thread while a crowd is there."""
    code = (
        "import os, torch; from utils.threads import Crowd\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "torch.set_num_threads(2); torch.zeros(1 << 20).add_(1); alone = count()\n"
        "crowd = Crowd(); there = count(); crowd.disperse()\n"
        "import time; deadline = time.time() + 5\n"
        "while count() > alone and time.time() < deadline: time.sleep(0.01)\n"
        "print(there - alone, count() - alone)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["2", "0"], done.stderr
