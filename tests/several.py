"""Several processes of one training in a test, connected by gloo.

They are forked by a server that has imported torch and done nothing else: a fork of the process of the tests fails once
a test has exported a model, since torch's threads of automatic differentiation do not survive it. Results are pickled
plainly: multiprocessing would lend a tensor's memory, which goes with its process.
"""

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from utils.processes import Processes, joined
from utils.world import World

SECONDS = 120


def run_several(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return [work(processes, *arguments)] of each rank; a failure of one is raised with its traceback.

    Args:
        size: Processes.
        work: What each does.
        *arguments: Further arguments.

    Returns:
        The results in the order of ranks; they must be picklable.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    children = [
        context.Process(target=_run, args=(World(rank, size, rank, size), port, pipes[rank][1], work, arguments))
        for rank in range(size)
    ]
    for child in children:
        child.start()
    until = time.monotonic() + SECONDS
    results = [_result(child, reader, until) for child, (reader, _) in zip(children, pipes, strict=True)]
    for child in children:
        child.join(10)
        if child.is_alive():
            child.kill()
    failed = [text for is_done, text in results if not is_done]
    if failed:
        raise AssertionError("\n".join(failed))
    return [value for _, value in results]


def _result(child: Any, reader: Any, until: float) -> tuple[bool, Any]:
    """What a child sent; that it sent nothing if it is killed or takes too long."""
    while not reader.poll(0.02):
        if time.monotonic() > until or not child.is_alive() and not reader.poll(0.1):
            return False, "no answer"
    return pickle.loads(reader.recv_bytes())


def _run(world: World, port: int, pipe: Any, work: Callable[..., Any], arguments: tuple) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)  # OpenMP does not survive a fork with more
    try:
        with joined(world, torch.device("cpu")) as processes:
            pipe.send_bytes(pickle.dumps((True, work(processes, *arguments))))
            processes.wait()
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))


__all__ = ["Processes", "run_several"]
