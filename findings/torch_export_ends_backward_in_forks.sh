#!/bin/sh
# torch 2.14.1, on a machine without a GPU.
#
# Guess: without a GPU a process that has run backward can be forked, and its children run backward too: only the threads
#   that automatic differentiation has for GPUs do not survive a fork. Exporting a model writes a graph and changes nothing
#   of that.
# Behaviour: the first holds. But once the process has exported a model with torch.export, its next backward seems to start
#   those threads, though there is no GPU, and children forked after it raise at their first backward. Export alone and
#   backward alone are harmless, so a suite of tests, or a service that exports and trains, fails by the order of its work.
#   Children of a fork server are not affected.
# Output seen:
#   nothing, fork: works
#   backward, fork: works
#   export, fork: works
#   export and backward, fork: RuntimeError of autograd's threads and fork: True
#   export and backward, forkserver: works
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy
cat > "$folder/run.py" <<'PY'
import multiprocessing
import sys

import torch


def step(model):
    model(torch.ones(1, 2)).sum().backward()


def child(pipe):
    try:
        step(torch.nn.Linear(2, 1))
        pipe.send("works")
    except RuntimeError as error:
        known = "autograd's threading" in str(error) and "fork" in str(error)
        pipe.send(f"RuntimeError of autograd's threads and fork: {known}")


if __name__ == "__main__":
    done, method = sys.argv[1:]
    model = torch.nn.Linear(2, 1)
    if "export" in done:
        torch.export.export(model, (torch.ones(1, 2),))
    if "backward" in done:
        step(model)
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(theirs,))
    process.start()
    print(f"{done}, {method}: {ours.recv()}")
    process.join()
PY
run() {
    CUDA_VISIBLE_DEVICES= "$folder/venv/bin/python" "$folder/run.py" "$1" "$2" 2>/dev/null
}
{
    run nothing fork
    run backward fork
    run export fork
    run "export and backward" fork
    run "export and backward" forkserver
} | tee "$folder/seen"
cat > "$folder/expected" <<'TXT'
nothing, fork: works
backward, fork: works
export, fork: works
export and backward, fork: RuntimeError of autograd's threads and fork: True
export and backward, forkserver: works
TXT
diff "$folder/expected" "$folder/seen"
