#!/bin/sh
# grad-cam 1.5.7 with opencv-python 5.0.0.93.
#
# Guess: a package that needs OpenCV accepts the opencv-python that is there.
# Behaviour: grad-cam asks for opencv-python-headless by name. pip installs it beside opencv-python; both own the same
#   folder cv2, and the later one replaces its library. From then on cv2 has no windows: detectors that show streams, and
#   labeling tools in the same environment, stop with an error of OpenCV's.
# Output seen:
#   before: GUI True
#   grad-cam asks for opencv-python-headless
#   after: GUI False
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$folder/venv/bin/pip" install -q opencv-python==5.0.0.93
cat > "$folder/gui.py" <<'PY'
import re

import cv2

line = re.search(r"GUI:\s*(\S*)", cv2.getBuildInformation())[1]
print("GUI", line.upper() not in ("NONE", "NO", ""))
PY
{
  echo "before: $("$python" "$folder/gui.py")"
  "$folder/venv/bin/pip" install -q --no-deps grad-cam==1.5.7 setuptools
  wanted=$("$python" -c "
from importlib.metadata import requires
print(next(each for each in requires('grad-cam') if each.startswith('opencv')))")
  echo "grad-cam asks for $wanted"
  "$folder/venv/bin/pip" install -q "$wanted==5.0.0.93"
  echo "after: $("$python" "$folder/gui.py")"
} | tee "$folder/seen"
cat > "$folder/expected" <<'TXT'
before: GUI True
grad-cam asks for opencv-python-headless
after: GUI False
TXT
diff "$folder/expected" "$folder/seen"
