"""Free memory under the limits of control groups of both versions, on made file systems and on this one."""

import pytest

from utils.free_memory import available_memory

GB = 1 << 30


def system(root, cgroup, available=16 * GB):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    return root


def group(root, place, limit, used, reclaimable=0, version=2):
    folder = root / "sys/fs/cgroup" / place
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    line = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{line} {reclaimable}\n")


def test_without_groups_the_system_decides(tmp_path):
    assert available_memory(system(tmp_path, "")) == 16 * GB


@pytest.mark.parametrize("version, line, mount", [(2, "0::/job/step", ""), (1, "4:memory:/job/step", "memory/")])
def test_the_tightest_group_decides_and_cached_files_do_not_count(tmp_path, version, line, mount):
    root = system(tmp_path, f"9:name=systemd:/\n{line}\n")
    group(root, f"{mount}job/step", 8 * GB, 5 * GB, 1 * GB, version)
    assert available_memory(root) == 4 * GB
    group(root, f"{mount}job", 6 * GB, 5 * GB, 0, version)  # the group above has the tighter limit
    assert available_memory(root) == 1 * GB


def test_a_group_without_a_limit_or_one_that_is_not_mounted_here_changes_nothing(tmp_path):
    root = system(tmp_path, "0::/elsewhere/container\n")
    assert available_memory(root) == 16 * GB
    group(root, "", "max", 1 * GB)
    assert available_memory(root) == 16 * GB
    group(root, "", 3 * GB, 1 * GB)  # a container sees its own group as the root
    assert available_memory(root) == 2 * GB


def test_a_group_over_its_limit_has_nothing_left(tmp_path):
    root = system(tmp_path, "0::/\n")
    group(root, "", 1 * GB, 2 * GB)
    assert available_memory(root) == 0


def test_this_machine_says_something_plausible():
    free = available_memory()
    assert free is None or 2**20 < free < 2**50
