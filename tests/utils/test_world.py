"""The place of a process among those of a launcher, and its share of a batch."""

import pytest

from utils.errors import ConfigError
from utils.world import World, launch_command

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_the_launcher_s_variables():
    assert World.of_launcher(TORCHRUN) == World(3, 4, 1, 2)
    assert World.of_launcher({}) == World()
    assert World.of_launcher({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}) == World()


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"MASTER_PORT": None}, "MASTER_PORT not set"),
        ({"RANK": "x"}, "RANK is 'x'"),
        ({"RANK": "4"}, "process 4 of 4"),
        ({"LOCAL_RANK": "2"}, "contradict"),
    ],
)
def test_variables_that_do_not_fit(changed, words):
    variables = {name: text for name, text in {**TORCHRUN, **changed}.items() if text is not None}
    with pytest.raises(ConfigError, match=words):
        World.of_launcher(variables)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 64])
def test_shares_are_the_whole_in_order(size, count):
    shares = [list(World(rank, size, 0, 1).own(count)) for rank in range(size)]
    assert sum(shares, []) == list(range(count))
    lengths = [len(share) for share in shares]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] - lengths[-1] <= 1


@pytest.mark.parametrize(
    "count, expected", [(8, [[0, 1, 2, 3], [4, 5, 6, 7]]), (7, [[0, 1, 2, 3], []]), (2, [[0, 1], []])]
)
def test_groups_of_four_stay_together(count, expected):
    assert [list(World(rank, 2, 0, 1).own(count, 4)) for rank in range(2)] == expected


def test_threads_are_a_share_of_the_cores_unless_the_user_says_otherwise():
    assert World(0, 2, 0, 2).threads(cores=64, wanted=1) == 32
    assert World(0, 2, 0, 2).threads(cores=64, wanted=4) == 4  # OMP_NUM_THREADS=4
    assert World(0, 4, 0, 4).threads(cores=2, wanted=1) == 1
    assert World().threads(cores=64, wanted=1) == 1


def test_the_command_to_type():
    command = launch_command(2, ["--data", "my data.yaml"])
    assert command == "torchrun --nproc_per_node 2 train.py --data 'my data.yaml'"
