"""Runs mypy and compares its errors per package with tools/mypy_ratchet.json: a count may fall and never rise.

    python tools/mypy_ratchet.py            exit code 1 if a package has more errors than the file says
    python tools/mypy_ratchet.py --update   write today's counts

Counts depend on mypy and on the libraries that bring their own types. With other versions of these than the file names,
a rise is printed and does not fail.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
RATCHET = ROOT / "tools" / "mypy_ratchet.json"
TYPED = ("mypy", "torch", "numpy")
ERROR = re.compile(r"^(?P<file>[^:]+):\d+: error: ")


def main() -> int:
    """Return the exit code: 0 if no package has more errors than the ratchet allows, 1 if one has, 2 if mypy failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write today's counts to tools/mypy_ratchet.json")
    update = parser.parse_args().update
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        print(done.stdout + done.stderr, file=sys.stderr)
        return 2
    lines = [line for line in done.stdout.splitlines() if ERROR.match(line)]
    counts, versions = count_by_package(lines), {name: version(name).split("+")[0] for name in TYPED}
    if update:
        write(counts, versions)
        return 0
    known = json.loads(RATCHET.read_text(encoding="utf-8"))
    risen = [name for name in sorted(counts) if counts[name] > known["errors"].get(name, 0)]
    fallen = [name for name, before in known["errors"].items() if counts[name] < before]
    for name in risen:
        print(f"mypy: {name} has {counts[name]} errors, {known['errors'].get(name, 0)} are allowed:")
        print("\n".join(line for line in lines if package_of(line) == name))
    if fallen and not risen:
        print(f"mypy: fewer errors in {', '.join(fallen)}; lower the ratchet: python tools/mypy_ratchet.py --update")
    print(f"mypy: {sum(counts.values())} errors, {sum(known['errors'].values())} allowed")
    if risen and versions != known["versions"]:
        print(f"mypy: not enforced, since the counts were made with {known['versions']} and this is {versions}")
        return 0
    return int(bool(risen))


def package_of(line: str) -> str:
    """Return the package that an error line of mypy belongs to: the folder of its file, "scripts" at the top."""
    folder = PurePosixPath(line.partition(":")[0]).parent.as_posix()
    return "scripts" if folder == "." else folder


def count_by_package(lines: list[str]) -> Counter[str]:
    """Return the number of errors per package."""
    return Counter(package_of(line) for line in lines)


def write(counts: Counter[str], versions: dict[str, str]) -> None:
    """Write the counts and the versions they were made with to tools/mypy_ratchet.json."""
    content = {"versions": versions, "errors": dict(sorted(counts.items()))}
    RATCHET.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"mypy: {sum(counts.values())} errors are allowed from now on")


if __name__ == "__main__":
    sys.exit(main())
