"""Let detect.py read thousands of frames of a camera that breaks off, stalls and comes back, and watch its memory.

    python benchmarks/stream_soak.py --weights yolov5n.pt --frames 10000 --imgsz 96

The camera is MJPEG over HTTP on this machine (tests/mjpeg_camera.py). Its connections end in turn after whole frames,
in the middle of one, and in silence. detect.py uses every frame (`--stream-buffer`) and writes video, csv, json and
counts. Printed are the frames, the reconnects, its resident memory when a tenth of the frames was done and at the end,
and the length of the video beside the time that the stream took.
"""

import argparse
import csv
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import cv2  # noqa: E402
from mjpeg_camera import MjpegCamera, Step  # noqa: E402

_FRAME = re.compile(r"stream 1/1 \((\d+)")


def main() -> None:
    """Run detect.py on the camera and print what came of it."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, MjpegCamera(*_script(options), fps=options.fps) as camera:
        command = [sys.executable, "-u", ROOT / "detect.py", "--weights", options.weights, "--source", camera.address]
        command += ["--imgsz", str(options.imgsz), "--stream-buffer", "--stream-timeout", "20", "--project", folder]
        command += ["--save-csv", "--save-json", "--save-counts", "--batch-size", str(options.batch_size)]
        begun = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        resident: dict[int, float] = {}
        for line in process.stdout:
            found = _FRAME.match(line)
            number = int(found[1]) if found else 0
            if number and number % max(options.frames // 10, 1) == 0:
                resident[number] = _resident_mib(process.pid)
            if not found:
                print(line.rstrip())
        code = process.wait()
        print(f"exit code {code} after {time.monotonic() - begun:.0f} s, {camera.connections} connections")
        for number, mib in resident.items():
            print(f"{number:6} frames: {mib:.1f} MiB resident")
        _print_results(Path(folder) / "exp")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="yolov5n.pt", help="a checkpoint")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--outages", type=int, default=9)
    parser.add_argument("--fps", type=float, default=0.0, help="of the camera; 0: as fast as frames are taken")
    parser.add_argument("--imgsz", type=int, default=96, help="pixels")
    parser.add_argument("--batch-size", type=int, default=1)
    return parser.parse_args()


def _script(options: argparse.Namespace) -> list[list[Step]]:
    """The connections: parts of the frames with an outage of each kind in turn behind them, then no answer."""
    kinds: list[list[Step]] = [[], [("half", 0)], [("stall", 15)]]
    share, rest = divmod(options.frames, options.outages + 1)
    connections = [[("frames", share), *kinds[number % 3]] for number in range(options.outages)]
    return [*connections, [("frames", share + rest)], [("refuse", 0)]]


def _resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) / 1024


def _print_results(folder: Path) -> None:
    with (folder / "counts.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    first, last = float(rows[0]["time"]), float(rows[-1]["time"])
    print(f"counts.csv: {len(rows)} frames from {first:.1f} to {last:.1f} s, that is {last - first:.1f} s")
    (file,) = folder.glob("*.mp4")
    capture = cv2.VideoCapture(str(file))
    frames = 0
    while capture.grab():
        frames += 1
        last = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    print(f"{file.suffix[1:]}: {frames} frames, the last at {last:.1f} s, {file.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
