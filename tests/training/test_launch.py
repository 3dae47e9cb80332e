"""What launchers say is read, or refused by name before anything waits."""

import socket
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from pipeline.recipe import share
from pipeline.training.distributed.launch import Launched, compare, first_of, introduction, launched, meeting
from pipeline.training.distributed.ranks import Ranks, joined

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29400"}
SRUN = {
    "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "4711", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[007-009],cpu1",
}  # fmt: skip
CARD = {"host": "a", "card": "GPU-1", "torch": "2", "vesalius": "1"}


def without(variables, name):
    return {key: value for key, value in variables.items() if key != name}


def test_torchrun_says_who_this_is():
    place = launched({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"})
    assert (place.rank, place.world, place.local_rank, place.host, place.port, place.hosted) == (1, 2, 1, "host", 29400, True)
    assert place.meeting.endswith("/2"), "ranks of a restarted group must not read what the group before it said"


def test_srun_says_who_this_is_and_its_first_node_is_where_all_meet():
    place = launched(SRUN)
    assert (place.rank, place.world, place.local_rank, place.host, place.hosted) == (3, 4, 1, "gpu007", False)
    assert place.port == launched({**SRUN, "SLURM_PROCID": "0"}).port
    assert 10_000 < place.port < 32_768
    assert place.port != launched({**SRUN, "SLURM_JOB_ID": "4712"}).port
    assert place.port != launched({**SRUN, "SLURM_STEP_ID": "1"}).port


def test_variables_of_the_user_win_over_slurms():
    place = launched({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000"})
    assert (place.host, place.port) == ("10.0.0.1", 5000)


def test_torchrun_inside_srun_is_torchruns():
    place = launched({**SRUN, **TORCHRUN, "WORLD_SIZE": "8", "RANK": "5"})
    assert (place.rank, place.world) == (5, 8)


@pytest.mark.parametrize("env", [{}, {"SLURM_NTASKS": "1"}, {"SLURM_JOB_ID": "1"}])
def test_without_a_launcher_there_is_one_process(env):
    assert launched(env) is None


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n[3-5,9]", "n3"), ("gpu[001,004-7],cpu[1-2]", "gpu001"), ("r[2-3]n[07-12]", "r2n07"), ("a-b.c.org,d", "a-b.c.org")],
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert first_of(nodes) == host


@pytest.mark.parametrize("nodes", ["", "[", ",a", "n[1", "a b"])
def test_a_node_list_without_a_host_is_refused(nodes):
    with pytest.raises(ValueError, match="SLURM_JOB_NODELIST"):
        first_of(nodes)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_missing_variable_of_torchrun_is_named(name):
    with pytest.raises(ValueError, match=f"^{name}: is missing.*torchrun"):
        launched(without(TORCHRUN, name))


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_JOB_NODELIST"])
def test_a_missing_variable_of_slurm_is_named(name):
    with pytest.raises(ValueError, match=f"^{name}: is missing"):
        launched(without(SRUN, name))


def test_one_node_needs_no_list():
    assert launched({**without(SRUN, "SLURM_JOB_NODELIST"), "SLURM_NNODES": "1"}).host == "localhost"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({**TORCHRUN, "RANK": "2"}, "RANK"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK"),
        ({**TORCHRUN, "LOCAL_RANK": "5"}, "LOCAL_RANK"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({**TORCHRUN, "WORLD_SIZE": "0", "RANK": "0"}, "RANK"),
        ({**SRUN, "SLURM_PROCID": "4"}, "SLURM_PROCID"),
        ({**SRUN, "SLURM_LOCALID": "x"}, "SLURM_LOCALID"),
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, "WORLD_SIZE"),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "SLURM_NTASKS"),
    ],
)
def test_contradicting_variables_are_refused_by_name(changes, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        launched(changes)


def test_a_port_in_use_is_named_at_once():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        begun = time.monotonic()
        place = Launched(0, 2, 0, "localhost", taken.getsockname()[1], "LOCAL_RANK", "x")
        with pytest.raises(ValueError, match=r"MASTER_PORT.*in use.*free port"):
            meeting(place, timedelta(seconds=60))
        assert time.monotonic() - begun < 10


def test_a_rank_that_never_comes_is_named():
    place = Launched(0, 2, 0, "localhost", free_port(), "LOCAL_RANK", "x")
    store = meeting(place, timedelta(seconds=0.3))
    with pytest.raises(ValueError, match=r"rank 1 of 2 did not come within 0 s"):
        introduction(store, place, Ranks().device, 0.3)


def test_a_meeting_place_that_nobody_keeps_is_named():
    place = Launched(1, 2, 1, "localhost", free_port(), "LOCAL_RANK", "x")
    with pytest.raises(ValueError, match=r"MASTER_ADDR and MASTER_PORT: localhost:.*does not answer"):
        meeting(place, timedelta(seconds=0.5))


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"card": "cpu"}, "CUDA_VISIBLE_DEVICES: rank 1 on a and rank 0 on a differ"),
        ({}, "CUDA_VISIBLE_DEVICES: ranks 0 and 1 on a got one card"),
        ({"card": "GPU-2", "torch": "3"}, "rank 1 on a runs torch 3"),
        ({"card": "GPU-2", "vesalius": "0"}, "rank 1 on a runs vesalius 0"),
    ],
)
def test_ranks_that_cannot_train_together_are_refused(other, match):
    with pytest.raises(ValueError, match=match):
        compare([CARD, {**CARD, **other}])


def test_ranks_that_can_are_not():
    compare([CARD, {**CARD, "card": "GPU-2"}, {**CARD, "host": "b", "card": "GPU-3"}])
    compare([{**CARD, "card": "cpu"}] * 3)


def test_one_process_initialises_nothing(monkeypatch):
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)
    with joined() as ranks:
        assert (ranks.rank, ranks.world, ranks.leads) == (0, 1, True)
        assert not dist.is_initialized()
        assert ranks.agreed(3) == 3
        assert ranks.first(lambda: {"a": 1}) == {"a": 1}
        ranks.barrier()


def test_a_batch_is_shared_evenly_or_the_key_is_named():
    assert share(8, None, 1) == (8, 8)
    assert share(8, 2, 2) == (4, 2)
    with pytest.raises(ValueError, match=r"training\.batch: 9 crops .* 2 ranks; choose a multiple of 2"):
        share(9, None, 2)
    with pytest.raises(ValueError, match=r"training\.batch"):
        share(1, None, 2)
    with pytest.raises(ValueError, match=r"training\.micro_batch: 3 does not divide the 4 crops"):
        share(8, 3, 2)
