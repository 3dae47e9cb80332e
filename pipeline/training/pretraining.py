"""One pretraining run from a plan: what it may see, its learner, and the loop around it."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pipeline import __version__
from pipeline.buffers import keep_freed_memory
from pipeline.files import digest_of, read_json, write_json
from pipeline.folder import StudyFolder
from pipeline.lease import Lease, lease
from pipeline.manifest import manifest_digest, read_manifest, select
from pipeline.plan import Plan, Run
from pipeline.plugins import load, only, settings
from pipeline.recipe import Recipe, settled, share
from pipeline.step import Context, Network
from pipeline.study import Study
from pipeline.training.distributed.ranks import Ranks, joined
from pipeline.training.encoder import save_encoder
from pipeline.training.examples import write_examples
from pipeline.training.guard import check_manifest, check_runs
from pipeline.training.health.probe import BEST, Probe, put_back
from pipeline.training.health.watch import Health
from pipeline.training.learner import Learner
from pipeline.training.loading.loader import Loader
from pipeline.training.loop import Loop
from pipeline.training.watch import Watcher

Score = Callable[[Network], float]


def pretrain(plan: Plan, where: StudyFolder, run: Run, probe: Callable[[], Score | None] | None = None) -> dict[str, Any]:
    """Runs, or continues, one pretraining; returns the final metrics. A finished run is not touched.

    ``probe`` is called once the run may start, and gives what says how good the frozen encoder is; None if nothing can say so.
    """
    study, recipe = plan.study_value(), plan.recipe_value(run.recipe)
    folder = where.run(run.run)
    manifest = read_manifest(where.manifest)
    check_manifest(manifest, where)
    check_runs(plan, where, run.needs, manifest)
    train, held_out = pool(manifest, study)
    identity = {
        "recipe_digest": digest_of(settled(plan.recipes[run.recipe])),
        "seed": run.seed,
        "manifest_digest": manifest_digest(manifest),
    }
    leases: list[Lease] = []
    with joined(recipe.training.wait_s) as ranks, ExitStack() as held:
        ranks.first(lambda: leases.append(held.enter_context(lease(folder))))
        finished = ranks.first(lambda: read_json(folder / "metrics.json") if _finished(folder, identity) else None)
        if finished is not None:
            return finished
        ranks.first(lambda: _begin(folder, identity, _card(plan, run, train, identity)))
        lexicon = pd.read_parquet(where.lexicon(run.lexicon)) if run.lexicon else None
        contract = _contract(recipe, run, study, train, identity)
        ranks.first(lambda: put_back(folder / BEST))
        watchers = [Health(), *_probes(probe() if probe else None, contract, folder)]
        loop = make_loop(recipe, run, where, train, held_out, lexicon, folder, ranks, watchers)
        if run.start:
            loop.learner.start_from(where.run(run.start) / "model.safetensors")
        loop.may_write = [held.check for held in leases]
        metrics = loop.run(who={**identity, "run": run.run, "recipe": run.recipe, "version": __version__})
        write_examples(loop, folder / "examples.npz")
        if ranks.leads:
            write_json(folder / "metrics.json", metrics)
        save_encoder(folder, loop.learner.network, contract, ranks.leads)
    return metrics


def _probes(score: Score | None, contract: dict[str, Any], folder: Path) -> list[Probe]:
    def keep(best: Path | None, network: Network, step: int, value: float) -> None:
        save_encoder(best or folder, network, {**contract, "probe": {"step": step, "score": value}}, best is not None)

    return [Probe(score, keep, folder)] if score else []


def pool(manifest: pd.DataFrame, study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(scans that pretraining reads, held-out validation scans). Test subjects are in neither, twins of test subjects neither."""
    chosen = select(manifest, study.pool.select)
    splits = ("train", "test") if study.pool.allow_test_subjects else ("train",)
    train = chosen[chosen["split"].isin(splits)].reset_index(drop=True)
    test = set(manifest.loc[manifest["split"] == "test", "cluster_id"])
    touched = sorted(test & set(train["cluster_id"]))
    if touched and not study.pool.allow_test_subjects:
        remedy = "run `vesalius split` again, or say pool.allow_test_subjects"
        raise ValueError(f"pool: {len(touched)} clusters hold test subjects, such as {touched[0]}; {remedy}")
    if train.empty:
        raise ValueError(f"pool.select: {study.pool.select!r} leaves no scan to pretrain on; loosen it or look at quarantine.tsv")
    return train, chosen[chosen["split"] == "validation"].reset_index(drop=True)


def make_loop(
    recipe: Recipe,
    run: Run,
    where: StudyFolder,
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    lexicon: pd.DataFrame | None,
    folder: Path,
    ranks: Ranks | None = None,
    watchers: Sequence[Watcher] = (),
) -> Loop:
    """The learner of a recipe with its loaders; initial weights are set. Each rank reads its own share of a batch."""
    from pipeline.volumes.store import Store

    store, training, ranks = Store(where.store), recipe.training, ranks or Ranks()
    name, values = only(recipe.crops, "crops")
    crops, make = settings("crops", name, values), load("crops", name)
    channels = len(train["window_low"].iloc[0])
    context = Context(len(train), training.batch, training.steps, tuple(crops.size_vox), channels, run.seed, lexicon=lexicon)
    torch.set_num_threads(training.threads)
    keep_freed_memory()
    learner = Learner(recipe, context, ranks)
    region = learner.region_vox()
    own, _ = share(training.batch, training.micro_batch, ranks.world)
    places = range(ranks.rank * own, (ranks.rank + 1) * own)

    def reader(rows: pd.DataFrame) -> Loader:
        return Loader(store, rows, make(crops, rows, lexicon, run.seed), crops.size_vox, region, training.batch, places)

    loader = reader(train)
    try:
        judge = reader(held_out) if len(held_out) else None
    except ValueError:
        judge = None  # a lexicon without a word in any held-out scan: nothing to judge by
    return Loop(learner, loader, judge, training, folder, ranks, watchers)


def _finished(folder: Path, identity: dict[str, Any]) -> bool:
    card = folder / "run.json"
    same = card.exists() and {key: read_json(card).get(key) for key in identity} == identity
    return same and (folder / "encoder.safetensors").exists() and (folder / "metrics.json").exists()


def _begin(folder: Path, identity: dict[str, Any], run_card: dict[str, Any]) -> None:
    """State of another manifest or recipe is no state of this run: checkpoints and journal begin anew."""
    import shutil

    card = folder / "run.json"
    if not card.exists() or {key: read_json(card).get(key) for key in identity} != identity:
        if (folder / "checkpoints").exists():
            print(f"{run_card['plan']['run']}: its checkpoints are of another recipe or manifest, so it begins anew", file=sys.stderr)
        for name in ("checkpoints", BEST):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("journal.jsonl", "metrics.json", "encoder.safetensors", "model.safetensors", "encoder.json", "examples.npz"):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "run.json", run_card)


def _card(plan: Plan, run: Run, train: pd.DataFrame, identity: dict[str, Any]) -> dict[str, Any]:
    seen = {
        key: sorted(set(train[column])) for key, column in (("subjects", "subject_id"), ("clusters", "cluster_id"), ("scans", "scan_id"))
    }
    return {**identity, **seen, "plan": asdict(run), "resolved": plan.recipes[run.recipe], "version": __version__}


def channel_names(train: pd.DataFrame, channels: Sequence[str] | None) -> list[str]:
    """Of the network's input, in its order: the study's; where scans enter one by one, whatever theirs are called."""
    return list(channels) if channels else sorted({name for names in train["channels"] for name in json.loads(names)})


def _contract(recipe: Recipe, run: Run, study: Study, train: pd.DataFrame, identity: dict[str, Any]) -> dict[str, Any]:
    size = next(iter(recipe.crops.values()))["size_vox"]
    spacings = sorted({tuple(round(float(s), 4) for s in spacing) for spacing in train["spacing_mm"]})
    return {
        "architecture": recipe.network,
        "channels": len(train["window_low"].iloc[0]),
        "channel_names": channel_names(train, study.channels),
        "modalities": sorted(set(train["modality"])),
        "size_vox": list(size),
        "spacing_mm": study.preprocess.model_dump(mode="json")["spacing_mm"],
        "spacings_seen_mm": [list(s) for s in spacings[:20]],
        "orientation": "RAS+, array axes towards Right, Anterior, Superior",
        "window_hu": list(study.preprocess.window_hu),
        "percentiles": list(study.preprocess.percentiles),
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "provenance": {
            **identity,
            "run": run.run,
            "needs": list(run.needs),
            "num_scans": len(train),
            "saw_test_subjects": bool((train["split"] == "test").any()),
            "vesalius": __version__,
            "torch": torch.__version__,
        },
    }
