"""Unreadable crops, readers and ranks that die or hang, a full disk, a jumping clock: said by name, in bounded time, and survived."""

import json
import os
import re
import shutil
import signal
import time

import pytest
import torch
import toy

from pipeline.files import digest
from pipeline.training.checkpoints.checkpoint import MANIFEST
from pipeline.training.faults.watchdog import HUNG
from pipeline.training.injection import Fault
from pipeline.training.loading.ahead import ReaderLost, read_ahead
from pipeline.training.loading.substitutes import Substitutes, allowed
from pipeline.volumes.store import Store

SOON_S = 12.0  # more than any patience in here, on a busy machine


def damaged(stored, root, *numbers):
    """A copy of the store in which some scans' voxels are not those that were written."""
    store, rows = stored
    shutil.copytree(store.root, root)
    for scan in rows["scan_id"][list(numbers)]:
        path = root / scan[:2] / f"{scan}.b2nd"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    return Store(root), rows


@pytest.mark.parametrize("world", [1, 2])
def test_crops_of_a_broken_scan_have_the_same_substitutes_in_every_run_and_are_counted(stored, tmp_path, world):
    broken = damaged(stored, tmp_path / "store", 4)
    for name in ("one", "two"):
        assert toy.train(broken, tmp_path / name, world, max_unread=0.2) == [0] * world, toy.said(tmp_path / name)
    assert toy.final(tmp_path / "one") == toy.final(tmp_path / "two")
    notes = [note for note in toy.notes(tmp_path / "one") if "could not be read" in note["text"]]
    samples = [sample for sample in range(24 * 4) if toy.Places(10, 3).order(sample) == 4]
    assert sum(int(note["text"].split()[0]) for note in notes) >= len(samples)
    listed = [entry for note in notes for entry in note["unread"]]
    assert {entry["scan"] for entry in listed} == {broken[1]["scan_id"][4]}
    assert {entry["reason"].split(";")[0] for entry in listed} == {"its bytes are not those that were written"}
    if world == 1:
        assert {entry["sample"] for entry in listed} == set(samples)


def test_a_run_with_substitutes_is_resumed_exactly(stored, tmp_path):
    broken = damaged(stored, tmp_path / "store", 4)
    assert toy.train(broken, tmp_path / "whole", 1, max_unread=0.2) == [0]
    assert toy.train(broken, tmp_path / "killed", 1, [Fault("kill", "loss", 13)], max_unread=0.2) == [-9]
    assert toy.train(broken, tmp_path / "killed", 1, max_unread=0.2) == [0]
    assert toy.final(tmp_path / "killed") == toy.final(tmp_path / "whole")
    assert toy.entries(tmp_path / "killed") == toy.entries(tmp_path / "whole")


def test_more_unread_crops_than_allowed_end_the_run_with_the_list(stored, tmp_path):
    broken = damaged(stored, tmp_path / "store", 2, 7)
    assert toy.train(broken, tmp_path / "run", 1, max_unread=0.02) == [1]
    said = toy.said(tmp_path / "run")
    assert "crops could not be read, more than training.max_unread allows (2 of this run's)" in said
    assert any(f"{broken[1]['scan_id'][number]}: its bytes are not those" in said for number in (2, 7))


def test_one_unread_crop_is_never_too_many():
    assert [allowed(0.001, samples) for samples in (10, 1000, 5000)] == [1, 1, 5]


def test_a_crop_that_is_read_at_the_second_attempt_is_that_crop():
    calls = []

    def read(number):
        calls.append(number)
        if len(calls) < 3:
            raise OSError(116, "Stale file handle")
        return {"number": number}

    substitutes = Substitutes(str)
    assert substitutes.read(read, 7) == {"number": 7, "sample": 7}
    assert substitutes.take(range(10)) == []


def test_a_store_of_which_nothing_can_be_read_is_an_error_and_no_endless_search():
    def read(number):
        raise ValueError(f"/somewhere/else/{number}: is missing")

    with pytest.raises(ValueError, match=r"16 crops in a row could not be read.*is missing.*vesalius verify"):
        Substitutes(lambda number: "scan").read(read, 7)


@pytest.mark.parametrize(
    ("act", "words"), [("die", "the thread that reads batches died"), ("hang", "no batch came within training.patience_s")]
)
def test_a_reader_that_dies_or_hangs_is_named_in_bounded_time_and_the_run_resumes(stored, resumes, tmp_path, act, words):
    begun = time.monotonic()
    assert toy.train(stored, tmp_path, 1, [Fault(act, "read", 12)], patience_s=0.8) == [1]
    assert time.monotonic() - begun < SOON_S
    assert re.search(rf"step 12: .*{words}.*scan [a-j]0", toy.said(tmp_path))
    resumes()


def test_a_reader_that_is_slow_is_waited_for_until_patience_ends():
    def slow(step):
        time.sleep(0.3)
        return step

    assert list(read_ahead(slow, range(3), 2, 5.0, str)) == [0, 1, 2]
    with pytest.raises(ReaderLost, match="hangs or starves"):
        next(read_ahead(slow, range(3), 2, 0.05, str))


def test_an_error_of_the_reader_is_raised_where_its_batch_was_due():
    def make(step):
        if step == 2:
            raise ValueError("this one")
        return step

    found = read_ahead(make, range(5), 4, 5.0, str)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="this one"):
        next(found)


@pytest.mark.parametrize(
    ("act", "place", "words"),
    [("hang", "step", "computing, step 12, at injection.py"), ("hang", "save:state", "saving, step 15"), ("freeze", "step", "Timeout")],
)
def test_a_training_thread_that_hangs_ends_by_itself_and_the_run_resumes(stored, resumes, tmp_path, act, place, words):
    begun = time.monotonic()
    step = 14 if place == "save:state" else 12
    (code,) = toy.train(stored, tmp_path, 1, [Fault(act, place, step)], patience_s=0.8)
    assert code == (1 if act == "freeze" else HUNG)
    assert time.monotonic() - begun < SOON_S
    assert words in toy.said(tmp_path)
    resumes()


@pytest.mark.parametrize("act", ["hang", "stop"])
def test_a_rank_that_hangs_is_named_by_the_others_and_the_run_resumes(stored, resumes, tmp_path, act):
    begun = time.monotonic()
    codes = toy.train(stored, tmp_path, 2, [Fault(act, "step", 12, 1)], patience_s=3.0)
    assert time.monotonic() - begun < 2 * SOON_S
    assert codes[0] in (HUNG, 1)
    said = toy.said(tmp_path)
    if act == "stop":
        assert codes == [HUNG, -signal.SIGKILL]
        assert re.search(r"rank 0 has waited .* in step 12\. Rank 1 \(process \d+ on .*\) is silent; it was: ", said)
    else:
        assert re.search(r"[Rr]ank 1 .*(made no progress|has been for).*computing, step 12, at injection.py", said)
    resumes(2)


@pytest.mark.parametrize(("act", "code"), [("raise", 1), ("kill", -signal.SIGKILL)])
def test_a_dead_rank_ends_the_others_soon_and_is_named(stored, resumes, tmp_path, act, code):
    begun = time.monotonic()
    assert toy.train(stored, tmp_path, 2, [Fault(act, "step", 12, 1)]) == [1, code]
    assert time.monotonic() - begun < SOON_S
    assert re.search(
        r"rank 0 lost another rank in step 12\. Rank 1 \(process \d+ on .*\) is gone or out of reach; it last said: \w+, step \d+",
        toy.said(tmp_path),
    )
    resumes(2)


@pytest.mark.parametrize("stage", ["begin", "tensors", "state", "manifest", "rename"])
@pytest.mark.parametrize("world", [1, 2])
def test_a_full_disk_costs_one_checkpoint_and_no_step(stored, whole, tmp_path, stage, world):
    assert toy.train(stored, tmp_path, world, [Fault("disk_full", f"save:{stage}", 9)]) == [0] * world
    assert toy.final(tmp_path) == whole[world][0]
    assert [(note["step"], note["text"]) for note in toy.notes(tmp_path)] == [
        (10, "no checkpoint: No space left on device; the one before it stays")
    ]


def test_a_disk_that_stays_full_leaves_the_first_checkpoint_from_which_the_run_is_continued(stored, resumes, tmp_path):
    faults = [Fault("disk_full", "save:tensors", step) for step in (4, 9, 14, 19)]
    assert toy.train(stored, tmp_path, 1, [*faults, Fault("kill", "step", 22)]) == [-9]
    assert toy.checkpoints(tmp_path) == ["step_00000000"]
    resumes()


def test_a_clock_that_jumps_changes_nothing_but_the_times(stored, whole, tmp_path, monkeypatch):
    true, calls = time.time, []

    def jumping():
        calls.append(0)
        return true() + (-1e9 if len(calls) % 2 else 1e9)

    monkeypatch.setattr(time, "time", jumping)
    assert toy.train(stored, tmp_path) == [0]
    assert toy.final(tmp_path) == whole[1][0]
    assert toy.entries(tmp_path) == whole[1][1]


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("fault", ["flip", "truncate", "missing", "manifest"])
def test_the_checkpoint_before_a_damaged_one_is_used_and_the_journal_says_so(stored, whole, tmp_path, fault):
    assert toy.train(stored, tmp_path, 1, [Fault("kill", "step", 13)]) == [-9]
    folder = tmp_path / "checkpoints" / "step_00000010"
    acts = {
        "flip": lambda: flip(folder / "tensors.safetensors"),
        "truncate": lambda: os.truncate(folder / "tensors.safetensors", 50),
        "missing": lambda: (folder / "state.json").unlink(),
        "manifest": lambda: (folder / MANIFEST).write_text(""),
    }
    acts[fault]()
    assert toy.train(stored, tmp_path) == [0]
    assert toy.final(tmp_path) == whole[1][0]
    (note,) = toy.notes(tmp_path)
    assert note["text"].startswith("step_00000010: ")
    assert note["step"] == 5


def test_nothing_of_ours_lies_in_shared_memory(stored, tmp_path):
    def work(ranks):
        loop = toy.make_loop(stored, tmp_path, ranks)
        loop.run(toy.WHO)
        maps = open(f"/proc/{os.getpid()}/maps").read()  # noqa: SIM115
        assert "/dev/shm" not in maps
        assert torch.multiprocessing.active_children() == []

    assert toy.ranks_in_forks(work, 1, tmp_path / "said.txt") == [0], toy.said(tmp_path)


def test_two_calls_of_one_run_make_one_folder(stored, whole, tmp_path):
    """A finished training called again goes on from its last step: nothing is trained twice."""
    assert toy.train(stored, tmp_path) == [0]
    before = digest(tmp_path / "checkpoints" / "step_00000024" / "tensors.safetensors")
    assert toy.train(stored, tmp_path) == [0]
    assert digest(tmp_path / "checkpoints" / "step_00000024" / "tensors.safetensors") == before
    assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])["kind"] == "end"
    assert toy.entries(tmp_path) == whole[1][1]
