"""`embed` and `discover` on a study's folder: what they write, what they leave out, what they refuse."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.files import write_json
from pipeline.keys import initialise
from pipeline.lexicon.embedding import BATCH, MAX_ALONG, Whitening, crop_lows, embed
from pipeline.manifest import write_manifest
from pipeline.plan import make_plan, plan_json
from pipeline.plugins import load, settings
from pipeline.step import Context
from pipeline.training.encoder import save_encoder
from pipeline.verbs import discover as discover_verb
from pipeline.verbs import embed as embed_verb

NETWORK = {"unet": {"widths": [4, 8], "skips": False}}
RESTORATION = {
    "network": NETWORK, "crops": {"random": {"size_vox": [16, 16, 16]}}, "views": {"altered": {"corrupt": {}}},
    "objectives": {"restoration": {"view": "altered"}},
}  # fmt: skip
WORDS = {
    **RESTORATION, "crops": {"words": {"size_vox": [12, 12, 12]}},
    "objectives": {"restoration": {"view": "altered"}, "visual_words": {"view": "altered"}},
    "words": {"encoder": "restoration", "num_words": 4, "sizes_vox": [[12, 12, 12]], "neighbours": 0.6},
}  # fmt: skip


def make_network():
    network = load("networks", "unet")(settings("networks", "unet", NETWORK["unet"]), Context(1, 1, 1, (16, 16, 16), 1))
    initialise(network, 5)
    return network.eval()


@pytest.fixture
def study(tmp_path, cohort, monkeypatch):
    """Folder with plan, manifest (one scan is a test scan, one repeats another), store and a run's encoder; its plan."""
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    for name, recipe in {"restoration": RESTORATION, "words": WORDS}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **recipe}))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({
        "name": "tiny", "sources": [{"path": "scans"}], "split": {"test": 1, "validation": 2},
        "recipes": ["restoration.yaml", "words.yaml"],
    }))  # fmt: skip
    plan = make_plan(tmp_path / "tiny.yaml")
    folder = tmp_path / "results"
    write_json(folder / "plan.json", plan_json(plan))
    store, rows, _ = cohort
    (folder / "store").symlink_to(store.root)
    rows = rows.assign(slope=[[1.0]] * len(rows), inter=[[0.0]] * len(rows))
    extra = rows.iloc[[0, 1]].assign(scan_id=["test000000000000", "twin000000000000"], split=["test", "train"])
    extra = extra.assign(twin_of=["", rows["scan_id"].iloc[1]], cluster_id=["other", rows["cluster_id"].iloc[1]])
    write_manifest(pd.concat([rows, extra]), folder / "manifest.parquet")
    run = plan.runs[0]
    save_encoder(folder / "runs" / run.run, make_network(), {"architecture": NETWORK, "channels": 1, "size_vox": [16, 16, 16]})
    return folder, plan


def test_embed_and_discover_write_the_same_bytes_again_and_leave_test_scans_and_twins_out(study, cohort, capsys):
    folder, plan = study
    run, lexicon = plan.lexicons[0].run, plan.lexicons[0].lexicon
    embed_verb.run(folder, run)
    table = pd.read_parquet(folder / "embeddings" / f"{run}.parquet")
    assert table["scan_id"].tolist() == sorted(cohort[1]["scan_id"])
    assert table["embedding"].map(len).tolist() == [8] * len(table)
    discover_verb.run(folder, lexicon)
    words, figures = folder / "lexicons" / f"{lexicon}.parquet", folder / "lexicons" / f"{lexicon}.json"
    first = [path.read_bytes() for path in (folder / "embeddings" / f"{run}.parquet", words, figures)]
    shown = json.loads(figures.read_text())
    assert shown["num_words"] == 4
    assert shown["share_pairs_apart"] == 1.0
    assert "word_error_mm" not in shown
    assert "true median error" not in capsys.readouterr().out
    embed_verb.run(folder, run)
    discover_verb.run(folder, lexicon)
    assert [path.read_bytes() for path in (folder / "embeddings" / f"{run}.parquet", words, figures)] == first
    discover_verb.run(folder, merge=True)
    assert set(pd.read_parquet(folder / "lexicon.parquet")["lexicon"]) == {lexicon}


def test_true_errors_are_told_where_a_cohort_wrote_its_truth(study, cohort, tmp_path, capsys):
    from pipeline.folder import StudyFolder
    from pipeline.scans.identity import write_crosswalk

    folder, plan = study
    entries = []
    for number, (scan, phantom) in enumerate(cohort[2].items()):
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in phantom.shape], indexing="ij"), -1) + phantom.origin
        (tmp_path / "cohort" / "truth").mkdir(parents=True, exist_ok=True)
        np.savez(tmp_path / "cohort" / "truth" / f"p{number}.npz", template_mm=phantom.template(grid).astype("f4"), affine=phantom.affine)
        file = f"p{number}.nii.gz" if number % 2 else f"p{number}/IM0001.dcm"
        path = str(tmp_path / "cohort" / "images" / file)
        entries.append({"file_id": f"f{number}", "path": path, "kind": "scan", "scan_id": scan})
    write_crosswalk(StudyFolder(folder), entries)
    embed_verb.run(folder, plan.lexicons[0].run)
    discover_verb.run(folder, plan.lexicons[0].lexicon)
    figures = json.loads((folder / "lexicons" / f"{plan.lexicons[0].lexicon}.json").read_text())
    assert figures["word_error_mm"] < figures["body_error_mm"] < figures["index_error_mm"]
    out = capsys.readouterr().out
    assert f"words {figures['word_error_mm']:.2f} mm" in out
    assert f"equal array indices {figures['index_error_mm']:.2f} mm" in out


def test_what_comes_before_is_asked_for_by_name(study, tmp_path):
    folder, plan = study
    with pytest.raises(ValueError, match="run `vesalius embed"):
        discover_verb.run(folder, plan.lexicons[0].lexicon)
    with pytest.raises(ValueError, match="run `vesalius pretrain"):
        embed_verb.run(folder, plan.runs[1].run)
    with pytest.raises(ValueError, match="name one lexicon"):
        discover_verb.run(folder)
    with pytest.raises(ValueError, match="name one lexicon"):
        discover_verb.run(folder, plan.lexicons[0].lexicon, merge=True)
    with pytest.raises(ValueError, match="there is no lexicon"):
        discover_verb.run(folder, merge=True)


def test_crops_cover_the_body_evenly_and_one_suffices_for_a_small_scan(cohort):
    row = cohort[1].iloc[0].to_dict()
    assert len(crop_lows(row, (40, 44, 36))) == 1
    lows = np.array(crop_lows(row, (16, 16, 16)))
    assert len(lows) == len({tuple(low) for low in lows})
    assert len(lows) > BATCH
    covered = np.zeros(row["shape"], bool)
    for low in lows:
        covered[tuple(slice(a, a + 16) for a in low)] = True
    assert (lows >= 0).all()
    assert covered[cohort[0].body(row["scan_id"])].mean() > 0.6
    assert len(crop_lows(row, (4, 4, 4))) == MAX_ALONG**3


def test_an_embedding_is_the_mean_of_the_pooled_features_of_its_crops(cohort):
    import torch

    store, rows, _ = cohort
    network, row = make_network(), rows.iloc[[2]]
    (count, vector), lows = next(embed(network, store, row, (16, 16, 16))), crop_lows(row.iloc[0].to_dict(), (16, 16, 16))
    with torch.no_grad():
        crops = [torch.from_numpy(store.crop(row["scan_id"].iloc[0], low, (16, 16, 16)) / 1000).clamp(0, 1).float() for low in lows]
        pooled = torch.cat([network(crop[None]).pooled for crop in crops])
    assert count == len(lows)
    np.testing.assert_allclose(vector, pooled.mean(0).numpy(), atol=1e-5)


def test_whitened_training_embeddings_have_no_mean_and_equal_spread_and_unit_length():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + 5
    white = Whitening.of(train)
    points = (train - white.mean) @ white.matrix
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-9)
    covariance = np.cov(points.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3
    assert np.linalg.cond(covariance) < np.linalg.cond(np.cov(train.T)) / 2
    np.testing.assert_allclose(np.linalg.norm(white(train), axis=1), 1)
    assert np.isfinite(Whitening.of(train[:1])(train)).all()
