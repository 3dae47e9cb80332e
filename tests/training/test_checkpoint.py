"""A checkpoint is whole, proved by digests, or passed over."""

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.training.checkpoints import checkpoint
from pipeline.training.checkpoints.checkpoint import FILES, MANIFEST, STAGES, Checkpoints
from pipeline.training.optimiser import make_optimiser, rate_factor, set_rate

MADE = {"recipe_digest": "r", "manifest_digest": "m", "world": 1, "code": "c"}


def save(folder, step, value=1.0, **settings):
    return Checkpoints(folder, **settings).save(step, {"weight": torch.full((4,), value)}, {"journal": step}, MADE)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoint_is_loaded_with_all_that_is_known_of_it(tmp_path):
    save(tmp_path, 10, 1.0)
    save(tmp_path, 20, 2.0)
    found = Checkpoints(tmp_path).load()
    assert (found.step, found.state, found.made, found.complaints) == (20, {"step": 20, "journal": 20}, MADE, ())
    assert found.tensors["weight"].tolist() == [2.0] * 4
    assert (tmp_path / "latest").read_text() == "step_00000020\n"


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path).load() is None


def test_older_checkpoints_are_pruned_but_two_are_kept(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    assert names(tmp_path) == ["latest", "step_00000030", "step_00000040"]


def test_one_that_does_not_prove_itself_is_not_counted_when_older_ones_are_pruned(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    flip(tmp_path / "step_00000020" / "tensors.safetensors", -1)
    save(tmp_path, 30)
    assert names(tmp_path) == ["latest", "step_00000010", "step_00000020", "step_00000030"]
    save(tmp_path, 40)
    assert names(tmp_path) == ["latest", "step_00000030", "step_00000040"]


def flip(path, byte, bit=0):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


FAULTS = {
    "flip": lambda folder: flip(folder / "tensors.safetensors", -1),
    "truncated": lambda folder: os.truncate(folder / "tensors.safetensors", 100),
    "longer": lambda folder: (folder / "tensors.safetensors").open("ab").write(b"0"),
    "missing": lambda folder: (folder / "tensors.safetensors").unlink(),
    "no manifest": lambda folder: (folder / "MANIFEST.json").unlink(),
    "empty manifest": lambda folder: (folder / "MANIFEST.json").write_text(""),
    "manifest {}": lambda folder: (folder / "MANIFEST.json").write_text("{}"),
    "manifest []": lambda folder: (folder / "MANIFEST.json").write_text("[]"),
    "nested manifest": lambda folder: (folder / "MANIFEST.json").write_text("[" * 50_000),
    "huge manifest": lambda folder: (folder / "MANIFEST.json").write_text(" " * 70_000),
    "other state": lambda folder: (folder / "state.json").write_text("{}"),
    "a link": lambda folder: linked(folder / "state.json"),
    "no folder": shutil.rmtree,
}


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, fault):
    save(tmp_path, 10)
    FAULTS[fault](save(tmp_path, 20))
    found = Checkpoints(tmp_path).load()
    assert found.step == 10
    if fault != "no folder":
        assert "step_00000020" in found.complaints[0]


def test_a_flipped_bit_in_any_byte_is_detected(tmp_path):
    folder, flips = Checkpoints(tmp_path).save(10, {"weight": torch.rand(128)}, {"journal": 0}, MADE), 0
    for name in (*FILES, MANIFEST):
        data = (folder / name).read_bytes()
        with (folder / name).open("r+b", buffering=0) as handle:
            for place, byte in enumerate(data):
                os.pwrite(handle.fileno(), bytes([byte ^ (1 << (place + place // 8) % 8)]), place)
                assert checkpoint._problem(folder), f"{name}: a bit of byte {place} was flipped and not found"
                os.pwrite(handle.fileno(), bytes([byte]), place)
                flips += 1
    assert flips >= 1000
    assert checkpoint._problem(folder) is None


def test_what_was_proved_is_asked_again_when_a_file_changed(tmp_path):
    kept = Checkpoints(tmp_path)
    folder = kept.save(10, {"weight": torch.zeros(4)}, {}, MADE)
    assert kept.problem(folder) is None
    flip(folder / "tensors.safetensors", -1)
    assert "not what was written" in kept.problem(folder)


def test_if_no_checkpoint_can_be_trusted_nothing_is_guessed(tmp_path):
    for step in (10, 20):
        (save(tmp_path, step) / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"no checkpoint can be trusted.*step_00000020.*step_00000010"):
        Checkpoints(tmp_path).load()


def test_a_sealed_manifest_beside_a_pickle_is_no_way_in(tmp_path):
    """Even one who can seal a manifest gets no pickle read: weights are safetensors or nothing."""
    folder = save(tmp_path, 10)
    (folder / "tensors.safetensors").write_bytes(b"\x80\x04cposix\nsystem\n")
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": checkpoint.digest(folder / name)} for name in FILES}
    (folder / MANIFEST).write_bytes(checkpoint._sealed({"step": 10, "made": MADE, "files": files}))
    with pytest.raises(ValueError, match="no safetensors file"):
        Checkpoints(tmp_path).load()


class Cut(Exception):
    """The process ends here."""


def cut(at):
    def act(stage):
        if stage == at:
            raise Cut

    return act


@pytest.mark.parametrize("stage", STAGES)
def test_a_save_cut_short_leaves_a_checkpoint_that_proves_itself_and_the_next_save_sweeps_up(tmp_path, stage):
    for step in (10, 20):
        save(tmp_path, step)
    with pytest.raises(Cut):
        save(tmp_path, 30, 3.0, at=cut(stage))
    found = Checkpoints(tmp_path).load()
    assert found.step == (30 if stage in ("renamed", "pointer", "prune") else 20)
    assert found.complaints == ()
    save(tmp_path, 40)
    assert [name for name in names(tmp_path) if name.startswith("tmp")] == []
    assert len(names(tmp_path)) == 3


def test_a_full_disk_leaves_the_old_ones_and_no_partial_file(tmp_path):
    def full(stage):
        if stage == "tensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(tmp_path, 10)
    before = names(tmp_path)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 20, at=full)
    assert names(tmp_path) == before
    assert Checkpoints(tmp_path).load().step == 10


def test_a_temporary_folder_is_never_chosen_even_if_it_is_whole(tmp_path):
    save(tmp_path, 10)
    shutil.copytree(tmp_path / "step_00000010", tmp_path / "tmp_00000030_host_1")
    (tmp_path / "step_00000040.tmp").mkdir()
    assert Checkpoints(tmp_path).load().step == 10


def test_the_pointer_leads_nowhere_else_and_a_broken_one_is_no_loss(tmp_path):
    save(tmp_path, 10)
    outside = tmp_path.parent / "step_00000099"
    shutil.copytree(tmp_path / "step_00000010", outside)
    for text in ("../step_00000099", str(outside), "", "\x00", "step_00000077"):
        (tmp_path / "latest").write_text(text)
        assert Checkpoints(tmp_path).load().step == 10
    (tmp_path / "latest").write_bytes(b"\xff\xfe")
    assert Checkpoints(tmp_path).load().step == 10


def test_a_checkpoint_of_another_step_under_this_name_is_refused(tmp_path):
    save(tmp_path, 10)
    (tmp_path / "step_00000010").rename(tmp_path / "step_00000099")
    with pytest.raises(ValueError, match="broken manifest"):
        Checkpoints(tmp_path).load()


def test_a_step_that_is_saved_again_takes_the_place_of_what_was_damaged(tmp_path):
    save(tmp_path, 10)
    flip(save(tmp_path, 20) / "tensors.safetensors", -1)
    save(tmp_path, 20, 5.0)
    found = Checkpoints(tmp_path).load()
    assert (found.step, found.tensors["weight"][0], found.complaints) == (20, 5.0, ())


def test_the_manifest_says_how_it_was_made_and_what_is_in_it(tmp_path):
    manifest = json.loads((save(tmp_path, 10) / MANIFEST).read_text())
    assert manifest["made"] == MADE
    assert manifest["step"] == 10
    assert set(manifest["files"]) == {"tensors.safetensors", "state.json"}
    save_file({"weight": torch.full((4,), 1.0)}, tmp_path / "same.safetensors")
    assert manifest["files"]["tensors.safetensors"] == {
        "bytes": (tmp_path / "same.safetensors").stat().st_size,
        "sha256": checkpoint.digest(tmp_path / "same.safetensors"),
    }


def test_an_optimiser_continues_bit_for_bit():
    def train(net, optimiser, first, last):
        for step in range(first, last):
            set_rate(optimiser, rate_factor(step, 10, 0.2))
            optimiser.zero_grad()
            net(torch.full((2, 3), float(step))).square().sum().backward()
            optimiser.step()

    torch.manual_seed(0)
    whole = nn.Linear(3, 2)
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    optimiser = make_optimiser([(whole.parameters(), 1.0)], 1e-2, 1e-2)
    train(whole, optimiser, 0, 10)

    first = nn.Linear(3, 2)
    first.load_state_dict(start)
    half = make_optimiser([(first.parameters(), 1.0)], 1e-2, 1e-2)
    train(first, half, 0, 5)
    second = nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    other = make_optimiser([(second.parameters(), 1.0)], 1e-2, 1e-2)
    checkpoint.load_optimiser(other, checkpoint.optimiser_tensors(half))
    train(second, other, 5, 10)
    assert torch.equal(whole.weight, second.weight)
    assert torch.equal(whole.bias, second.bias)


def test_the_rate_rises_falls_and_ends_near_zero():
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001


def test_frozen_groups_and_norms_are_treated_as_said():
    net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    optimiser = make_optimiser([(net[0].parameters(), 0.0), (net[1:].parameters(), 0.5)], 1e-2, 0.1)
    assert [len(group["params"]) for group in optimiser.param_groups] == [1, 3]
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.1, 0.0]
    assert all(group["lr"] == pytest.approx(5e-3) for group in optimiser.param_groups)
