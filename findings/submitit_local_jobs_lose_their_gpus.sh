#!/usr/bin/env bash
# submitit 1.5.4, local executor, Python 3.11.
#
# Guess: a local job inherits the environment of the process that submits it, so a job that asks for nothing sees the
# GPUs that CUDA_VISIBLE_DEVICES names.
# Seen: the job's CUDA_VISIBLE_DEVICES is empty, so CUDA sees no device and a training silently goes on on the CPU; other
# variables are inherited. With gpus_per_node=1 the job gets "0", and not "1", the
# device that the submitting process was given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q submitit==1.5.4 cloudpickle==3.1.1 typing_extensions==4.12.2
cd "$folder"
cat > seen.py <<'PYTHON'
import os

import submitit


def variables():
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("ANOTHER")


if __name__ == "__main__":
    os.environ.update(CUDA_VISIBLE_DEVICES="1", ANOTHER="kept")
    results = []
    for gpus in (None, 1):
        executor = submitit.LocalExecutor(folder="logs")
        executor.update_parameters(timeout_min=1, **({} if gpus is None else {"gpus_per_node": gpus}))
        results.append(executor.submit(variables).result())
        print("gpus_per_node", gpus, "-> CUDA_VISIBLE_DEVICES, ANOTHER =", results[-1])
    assert results == [("", "kept"), ("0", "kept")], results
PYTHON
"$folder/venv/bin/python" seen.py
echo holds
