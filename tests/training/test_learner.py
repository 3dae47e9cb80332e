"""The learner and its loop: matched controls, exact resume, no leak between objectives."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.files import digest
from pipeline.recipe import Recipe
from pipeline.step import Context
from pipeline.training.encoder import save_encoder
from pipeline.training.examples import write_examples
from pipeline.training.learner import Learner
from pipeline.training.loading.boxes import Place
from pipeline.training.loading.loader import Loader, body_matrix, geometry, resized
from pipeline.training.pretraining import make_loop
from pipeline.volumes.store import Store

SIZE = (16, 16, 16)
RECIPE = {
    "name": "tiny",
    "network": {"unet": {"widths": [4, 8]}},
    "crops": {"random": {"size_vox": SIZE}},
    "views": {"altered": {"corrupt": {}}, "pair": {"augment": {}}},
    "objectives": {"restoration": {"view": "altered"}},
    "training": {"steps": 12, "batch": 2, "checkpoint_every": 4, "journal_every": 1, "evaluate_every": 6},
}
BOTH = {**RECIPE, "objectives": {**RECIPE["objectives"], "moco": {"view": "pair"}}}


@pytest.fixture
def study(tmp_path):
    """A store of six smooth volumes, and their manifest rows."""
    store, rows = Store(tmp_path / "store"), []
    rng = np.random.default_rng(0)
    for number in range(6):
        x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 22, 20)], indexing="ij")
        voxels = (4000 * np.exp(-2 * (x**2 + y**2 + z**2)) + 300 * rng.standard_normal(x.shape)).astype(np.int16)[None]
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        meta = {
            "spacing_mm": [2, 2, 2],
            "affine": affine.ravel().tolist(),
            "window_low": [0],
            "window_high": [4500],
            "slope": 1.0,
            "inter": 0.0,
        }
        scan = f"{'abcdef'[number]}{number:015d}"
        store.write(scan, voxels, voxels[0] > 500, meta)
        rows.append({
            "scan_id": scan, "exam_id": scan, "subject_id": scan, "cluster_id": scan, "channels": '["T1"]', "modality": "MR",
            "spacing_mm": [2.0] * 3, "shape": list(voxels.shape[1:]), "affine": affine.ravel().tolist(), "body_low_mm": [0.0] * 3,
            "body_high_mm": [46.0, 42.0, 38.0], "window_low": [0.0], "window_high": [4500.0], "slope": 1.0, "inter": 0.0, "digest": scan,
            "split": "validation" if number == 5 else "train", "labels": "{}", "origin": "made here", "licence": "none", "twin_of": "",
        })  # fmt: skip
    return tmp_path, store, pd.DataFrame(rows)


def loop_of(study, recipe, folder, steps=None):
    root, _, rows = study
    value = Recipe.model_validate(recipe if steps is None else {**recipe, "training": {**recipe["training"], "steps": steps}})
    where = type("Where", (), {"store": root / "store"})
    run = type("Run", (), {"seed": 3})
    held = rows["split"] == "validation"
    return make_loop(value, run, where, rows[~held].reset_index(drop=True), rows[held].reset_index(drop=True), None, folder)


def final_weights(folder):
    return digest(sorted((folder / "checkpoints").glob("step_*"))[-1] / "tensors.safetensors")


def test_switching_an_objective_on_changes_no_other_ones_crops_corruptions_and_weights(study, tmp_path):
    alone, both = loop_of(study, RECIPE, tmp_path / "a"), loop_of(study, BOTH, tmp_path / "b")
    own, other = alone.learner.state_dict(), both.learner.state_dict()
    assert own
    assert all(torch.equal(value, other[name]) for name, value in own.items())
    first, second = alone.loader.region(0), both.loader.region(0)
    assert torch.equal(first.ids.scan, second.ids.scan)
    seen, seen_too = alone.learner.look(first)["altered"][0], both.learner.look(second)["altered"][0]
    for name in ("voxels", "target", "affine", "valid"):
        assert torch.equal(getattr(seen, name), getattr(seen_too, name)), name
    losses, losses_too = alone.learner.losses(first)[0], both.learner.losses(second)[0]
    assert torch.equal(losses["restoration"].value, losses_too["restoration"].value)


def test_backward_through_leaves_equals_plain_backward(study, tmp_path):
    loop = loop_of(study, BOTH, tmp_path / "a")
    region = loop.loader.region(0)
    loop.learner.backward([region])
    through = {name: p.grad.clone() for name, p in loop.learner.named_parameters() if p.grad is not None}
    loop.learner.zero_grad()
    sum(loss.value for loss in loop.learner.losses(region)[0].values()).backward()
    for name, parameter in loop.learner.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(through[name], parameter.grad, rtol=1e-5, atol=1e-8, msg=name)
    assert {name for name in through if name.startswith("network.encoder")}


def test_a_run_stopped_anywhere_ends_with_the_same_weights(study, tmp_path):
    loop_of(study, BOTH, tmp_path / "whole").run({"run": "whole"})
    broken = loop_of(study, BOTH, tmp_path / "broken")
    calls, step = [], broken.step

    def failing(number, region):
        if number == 7 and not calls:
            calls.append(number)
            raise KeyboardInterrupt
        return step(number, region)

    broken.step = failing
    with pytest.raises(KeyboardInterrupt):
        broken.run({"run": "broken"})
    again = loop_of(study, BOTH, tmp_path / "broken")
    again.run({"run": "broken"})
    assert calls == [7]
    assert final_weights(tmp_path / "broken") == final_weights(tmp_path / "whole")
    lines = [[json.loads(line) for line in (tmp_path / name / "journal.jsonl").read_text().splitlines()] for name in ("whole", "broken")]
    plain = [[{k: v for k, v in e.items() if not k.startswith("time") and k != "run"} for e in entries] for entries in lines]
    assert plain[0] == plain[1]


def test_examples_show_what_was_restored(study, tmp_path):
    loop = loop_of(study, RECIPE, tmp_path / "a", steps=2)
    loop.run({"run": "a"})
    assert write_examples(loop, tmp_path / "examples.npz")
    with np.load(tmp_path / "examples.npz") as data:
        assert {name: value.shape for name, value in data.items()} == {name: (2, 16, 16) for name in ("target", "shown", "restored")}
        assert data["target"].std() > 0
        assert not np.array_equal(data["target"], data["shown"])


def test_a_run_that_continues_another_begins_with_its_weights_teacher_included_and_heads_of_its_own(study, tmp_path):
    first, second = loop_of(study, RECIPE, tmp_path / "a", steps=2), loop_of(study, BOTH, tmp_path / "b")
    fresh = {name: value.clone() for name, value in second.learner.objectives.state_dict().items()}
    first.run({"run": "a"})
    save_encoder(tmp_path / "a", first.learner.network, {})
    assert not same(first.learner.network, second.learner.network)
    second.learner.start_from(tmp_path / "a" / "model.safetensors")
    assert same(first.learner.network, second.learner.network)
    assert same(first.learner.network, second.learner.teacher)
    assert all(torch.equal(value, fresh[name]) for name, value in second.learner.objectives.state_dict().items())
    with pytest.raises(ValueError, match="no weights"):
        second.learner.start_from(tmp_path / "nowhere.safetensors")


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_signal_saves_and_ends_with_75_and_nothing_is_lost(study, tmp_path):
    loop = loop_of(study, RECIPE, tmp_path / "stopped")
    step = loop.step

    def signalled(number, region):
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(number, region)

    loop.step = signalled
    with pytest.raises(SystemExit) as stopped:
        loop.run({"run": "stopped"})
    assert stopped.value.code == 75
    assert (tmp_path / "stopped" / "checkpoints" / "step_00000006").is_dir()
    loop_of(study, RECIPE, tmp_path / "stopped").run({"run": "stopped"})
    loop_of(study, RECIPE, tmp_path / "whole").run({"run": "whole"})
    assert final_weights(tmp_path / "stopped") == final_weights(tmp_path / "whole")


def test_a_gradient_that_is_not_finite_is_skipped_and_ten_in_a_row_twice_end_the_run(study, tmp_path):
    loop = loop_of(study, RECIPE, tmp_path / "nan", steps=24)
    before = {name: value.clone() for name, value in loop.learner.state_dict().items()}
    backward = loop.learner.backward

    def poisoned(region, **when):
        result = backward(region, **when)
        next(p for p in loop.trained if p.grad is not None).grad.fill_(float("nan"))
        return result

    loop.learner.backward = poisoned
    with pytest.raises(ValueError, match="10 steps in a row"):
        loop.run({"run": "nan"})
    assert all(torch.equal(value, before[name]) for name, value in loop.learner.state_dict().items())


def test_a_view_that_needs_a_margin_changes_no_other_views_crop(study):
    _root, store, rows = study
    recipe = Recipe.model_validate(RECIPE)
    context = Context(6, 2, 10, SIZE, 1, 3)
    learner = Learner(recipe, context)
    from pipeline.plugins import load, settings

    crops = load("crops", "random")(settings("crops", "random", {"size_vox": SIZE}), rows, None, 3)
    narrow = Loader(store, rows, crops, SIZE, learner.region_vox(), 2).region(0)
    wide = Loader(store, rows, crops, SIZE, tuple(n + 9 for n in learner.region_vox()), 2).region(0)
    assert torch.equal(learner.look(narrow)["altered"][0].voxels, learner.look(wide)["altered"][0].voxels)
    assert torch.allclose(learner.look(narrow)["altered"][0].affine, learner.look(wide)["altered"][0].affine)


def test_regions_know_where_they_are(study):
    _, store, rows = study
    from pipeline.plugins import load, settings

    crops = load("crops", "random")(settings("crops", "random", {"size_vox": SIZE}), rows, None, 3)
    region = Loader(store, rows, crops, SIZE, SIZE, 2).region(4)
    for i in range(2):
        low = (region.affine[i, :3, 3] / 2.0).round().to(torch.int64).tolist()
        stored = store.crop(rows["scan_id"][int(region.ids.scan[i])], low, SIZE)
        assert np.array_equal(region.voxels[i].numpy(), stored)
    corner = body_matrix([0, 0, 0], [46, 42, 38]) @ np.array([46.0, 21.0, 0.0, 1.0])
    assert corner[:3] == pytest.approx([1.0, 0.5, 0.0])


def test_resizing_a_crop_keeps_its_outer_faces():
    voxels = np.broadcast_to(np.arange(8, dtype=np.int16)[:, None, None] * 100, (1, 8, 8, 8)).copy()
    out = resized(voxels, (4, 4, 4))
    affine, inside = geometry([Place(0, (0, 0, 0), (8, 8, 8))], np.eye(4)[None], np.array([[8, 8, 8]]), (4, 4, 4))
    assert out.shape == (1, 4, 4, 4)
    assert affine[0, 0, 0] == pytest.approx(2.0)
    assert affine[0, 0, 3] == pytest.approx(0.5)
    assert out[0, 1, 0, 0] == pytest.approx(250, abs=1)
    assert inside.tolist() == [[[0, 4]] * 3]


@pytest.mark.parametrize("sizes", [((9, 12, 7), (16, 10, 7)), ((30, 5, 1), (22, 30, 4)), ((8, 8, 8), (8, 8, 8))])
def test_resizing_is_pytorchs_trilinear_interpolation(sizes):
    voxels = np.random.default_rng(0).integers(-2000, 2000, (2, *sizes[0]), dtype=np.int16)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(voxels[None]).double(), size=sizes[1], mode="trilinear", align_corners=False)
    assert np.abs(resized(voxels, sizes[1]) - wanted[0].numpy()).max() < 0.51


def test_the_step_is_frozen():
    assert dataclasses.fields(Context)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Context(1, 1, 1, SIZE, 1).batch = 2


def test_training_imports_no_dashboard():
    code = "import sys, pipeline.training.pretraining; assert 'mlflow' not in sys.modules and 'monai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
