"""What processes exchange, watched in two or three real ones."""

import os
import signal
import time

import pytest
import torch
from several import run_several
from torch import nn

from utils.datasets.bad_images import BadImage, BadImages
from utils.errors import DataError
from utils.processes import ALONE, OtherProcessError, checksum


def exchanged(processes):
    rank = processes.world.rank
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, rank + 1.0)
    processes.copy_from_first(module)
    order = []
    processes.first_on_host(lambda: order.append(time.monotonic()))
    return {
        "sum": processes.sum(torch.tensor([1.0, rank])).tolist(),
        "gather": processes.gather({"rank": rank}),
        "to_first": processes.gather_to_first(rank),
        "from_first": processes.from_first(f"of {rank}"),
        "agree": processes.agree(5 * (rank == 1)),
        "next": [processes.agree_next(code) for code in (rank, 0, 7 * (rank == 2))] + [processes.agreed()],
        "weight": module.weight.unique().tolist(),
        "at": order[0],
        "orphan": processes.is_orphan,
    }


def test_exchange_between_three():
    results = run_several(3, exchanged)
    for result in results:
        assert result["sum"] == [3.0, 3.0] and result["from_first"] == "of 0" and result["agree"] == 5
        assert result["gather"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert result["next"] == [0, 2, 0, 7]  # each answer comes one call later, to all alike
        assert result["weight"] == [1.0] and not result["orphan"]
    assert [result["to_first"] for result in results] == [[0, 1, 2], [], []]
    assert results[0]["at"] < min(results[1]["at"], results[2]["at"])


def test_one_process_exchanges_nothing():
    assert (ALONE.gather(3), ALONE.from_first(3), ALONE.agree(4), ALONE.agree_next(4)) == ([3], 3, 4, 4)
    values = torch.ones(2)
    assert ALONE.sum(values) is values
    assert ALONE.first_on_host(lambda: 5) == 5 and ALONE.is_first and not ALONE.is_orphan


def failing(processes):
    if processes.world.rank == 1:
        raise DataError("cells.jpg: cannot be read")
    processes.sum(torch.zeros(1))


def killed(processes):
    if processes.world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(RuntimeError) as raised:
        processes.sum(torch.zeros(1))
    assert time.monotonic() - started < 20  # far below the minute after which a silent one is taken for dead
    raise raised.value


def test_the_reason_of_one_is_given_by_the_others():
    with pytest.raises(AssertionError) as raised:
        run_several(2, failing)
    first, second = str(raised.value).split("OtherProcessError: process 1 of 2 ended: cells.jpg: cannot be read")
    assert "SystemExit" in second and "DataError: cells.jpg: cannot be read" in second


def test_a_killed_process_ends_the_others():
    with pytest.raises(AssertionError) as raised:
        run_several(2, killed)
    assert "no answer" in str(raised.value)  # of the one that was killed
    assert f"{OtherProcessError.__name__}: process 0 of 2: another process was killed" in str(raised.value)


def test_checksum_tells_gradients_apart():
    same = [torch.tensor([1.0, -2.0]), torch.ones(2, 2)]
    assert checksum(same).tolist() == [3.0, 7.0]
    assert checksum([]).tolist() == [0.0, 0.0]


def bad_images_of(processes, limit) -> list:
    """Each of two finds an image of its own and one that both find."""
    found = BadImages("train", limit)
    for path in ("both.jpg", f"{processes.world.rank}.jpg"):
        found.add(BadImage(path, "is damaged", "left out"), 0)
    try:
        found.exchange(processes)
    except DataError as error:
        return [str(error)[:38]]
    found.exchange(processes)
    return sorted(found.paths)


def test_bad_images_of_all_count_together():
    assert run_several(2, bad_images_of, 3) == [["0.jpg", "1.jpg", "both.jpg"]] * 2
    assert run_several(2, bad_images_of, 2) == [["train: 3 images cannot be read, the la"]] * 2
