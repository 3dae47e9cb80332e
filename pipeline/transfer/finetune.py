"""Fine-tuning of one initialisation on one task: a search on validation subjects, then every size and seed, a file each."""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline import __version__
from pipeline.buffers import keep_freed_memory
from pipeline.files import digest, digest_of, read_json, write_json
from pipeline.folder import StudyFolder
from pipeline.lease import lease
from pipeline.manifest import read_manifest
from pipeline.plan import Plan, Transfer
from pipeline.plugins import load, only, settings
from pipeline.progress import Progress
from pipeline.step import Context
from pipeline.task import READ_LABELS
from pipeline.training.signals import Stop, watching
from pipeline.transfer import leakage
from pipeline.transfer.batches import Batches
from pipeline.transfer.cells import (
    Cell,
    cases_table,
    check_sizes,
    initialisation,
    num_steps,
    plan_cells,
    read_cell,
    write_cases,
    write_cell,
)
from pipeline.transfer.fit import fit, judge
from pipeline.transfer.labelled import LabelledVolumes, data_digest, labelled_scans, subset
from pipeline.transfer.metrics import mean_dice
from pipeline.transfer.model import Model, architecture, build, load_initial, weights_path
from pipeline.transfer.record import Record
from pipeline.volumes.store import Store

BOTH = ("validation", "test")


def finetune(plan: Plan, where: StudyFolder, transfer: Transfer) -> Path:
    """Runs or continues every cell of one initialisation; returns the path of ``cases.parquet``. A signal ends it with 75 (Ctrl-C: 130)."""
    with lease(where.transfer(transfer.transfer)), watching() as stop:
        return Finetuning(plan, where, transfer, stop).run()


class Finetuning:
    """All cells of one initialisation share the volumes in memory, the splits and the schedule."""

    def __init__(self, plan: Plan, where: StudyFolder, transfer: Transfer, stop: Stop | None = None) -> None:
        self.plan, self.where, self.transfer, self.folder = plan, where, transfer, where.transfer(transfer.transfer)
        self.stop = stop or Stop()
        study = plan.study_value()
        self.settings, self.initialisation = study.finetune, initialisation(plan, transfer.initialisation)
        self.runs = _by_seed(plan, transfer)
        manifest, store = read_manifest(where.manifest), Store(where.store)
        self.scans = labelled_scans(manifest, transfer.task)
        for split in BOTH:
            leakage.check_labelled(self.scans["train"], self.scans[split])
        leakage.check_labelled(self.scans["validation"], self.scans["test"])
        leakage.check_runs(plan, where, self.runs.values(), manifest)
        self.network = architecture(plan)
        self.available = len(self.scans["train"])
        check_sizes(plan, transfer, self.available)
        name, values = only(plan.tasks[transfer.task]["kind"], "kind")
        context = Context(self.available, self.settings.batch, self.settings.steps, self.settings.size_vox, 1)
        self.kind = load("tasks", name)(settings("tasks", name, values), context)
        self.volumes = LabelledVolumes(store, transfer.task, self.kind, pd.concat(self.scans.values(), ignore_index=True))
        self.data_digest = data_digest(store, self.scans, transfer.task)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self) -> Path:
        torch.set_num_threads(self.settings.threads)
        keep_freed_memory()
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        record = Record(self.folder / "journal.jsonl", self._identity())
        search = self._search_cells()
        number = len(search) + len(self._cells(1.0, 1.0))
        with Progress(f"finetune {self.transfer.transfer}", number, unit="cell") as progress:
            rate, length = self._search(search, record, progress)
            values = []
            for cell in self._cells(rate, length):
                path = self.folder / "cells" / f"{cell.name}.json"
                kept = path.exists()
                values.append(self._cell(cell, path, BOTH))
                record.add(values[-1])
                progress.advance(kept, dice=mean_dice(values[-1]["validation"]))
        seeds = {run: seed for seed, run in self.runs.items()}
        table = cases_table(self.transfer.task, self.transfer.initialisation, values, self.scans, seeds)
        write_cases(table, self.where.cases(self.transfer.transfer))
        record.end()
        return self.where.cases(self.transfer.transfer)

    def _cells(self, rate: float, length: float) -> tuple[Cell, ...]:
        return plan_cells(self.settings, self.initialisation, tuple(self.runs.values()), self.available, rate, length)

    def _search_cells(self) -> list[tuple[float, Cell]]:
        """(length, cell) of the grid: every learning rate and length at one size, each with the search's seeds."""
        grid = self.settings.search
        if grid is None or self.transfer.after:
            return []
        runs = tuple(self.runs.values())
        return [
            (length, Cell(grid.num_labels, seed, num_steps(self.settings, self.initialisation, grid.num_labels, length), rate,
                          runs[seed % len(runs)] if runs else None))
            for length in grid.lengths for rate in grid.learning_rates for seed in grid.seeds
        ]  # fmt: skip

    def _search(self, cells: list[tuple[float, Cell]], record: Record, progress: Progress) -> tuple[float, float]:
        """Chosen (learning rate, length): the best mean validation Dice over seeds; of equals the shorter, then the slower."""
        if self.transfer.after and self.settings.search:
            return self._chosen_by(self.where.transfer(self.transfer.after) / "search.json")
        if not cells:
            return self.settings.learning_rate, 1.0
        found: dict[tuple[float, float], list[float]] = {}
        for length, cell in cells:
            path = self.folder / "search" / f"{cell.learning_rate:g}-x{length:g}-s{cell.seed}.json"
            kept = path.exists()
            value = self._cell(cell, path, ("validation",))
            record.add(value, "search")
            found.setdefault((length, cell.learning_rate), []).append(mean_dice(value["validation"]))
            progress.advance(kept, dice=found[length, cell.learning_rate][-1])
        means = {at: float(np.mean(values)) for at, values in found.items()}
        length, rate = min(means, key=lambda at: (-means[at], at))
        tried = [{"length": at[0], "learning_rate": at[1], "dice_validation": round(mean, 6)} for at, mean in sorted(means.items())]
        chosen = {"length": length, "learning_rate": rate, "dice_validation": round(means[length, rate], 6)}
        num_validation = len(self.scans["validation"])
        grid = self.settings.search
        card = {
            "num_labels": grid.num_labels,
            "num_validation": num_validation,
            "seeds": list(grid.seeds),
            "tried": tried,
            "chosen": chosen,
        }
        write_json(self.folder / "search.json", card)
        return rate, length

    def _chosen_by(self, path: Path) -> tuple[float, float]:
        """What the search of another initialisation chose; copied, so that the verdict can show it."""
        if not path.exists():
            raise ValueError(f"{path}: there is no search yet; run `vesalius finetune {self.where.root} {self.transfer.after}` first")
        card = read_json(path)
        write_json(self.folder / "search.json", card)
        return card["chosen"]["learning_rate"], card["chosen"]["length"]

    def _cell(self, cell: Cell, path: Path, judged: tuple[str, ...]) -> dict[str, Any]:
        """A cell's results, from its file if that was made with the same settings and data."""
        own = self._cell_settings(cell, judged)
        value = read_cell(path, digest_of(own))
        if value is not None:
            return value
        scan_ids = subset(self.scans["train"]["scan_id"].tolist(), cell.num_labels, cell.seed)
        batches = Batches(self.volumes, scan_ids, self.settings.size_vox, self.settings.batch, cell.steps, cell.seed)
        model = self._model(cell)
        rates = (cell.learning_rate, self.initialisation.encoder_rate)
        fitted = fit(model, self.kind, batches, self.settings, cell.steps, *rates, self.stop)
        results: dict[str, Any] = {
            split: judge(model, self.kind, self.volumes, self.scans[split]["scan_id"].tolist(), self.settings.size_vox) for split in judged
        }
        return write_cell(path, cell, own, {**results, "curve": [list(point) for point in fitted.curve], "skipped": fitted.skipped})

    def _model(self, cell: Cell) -> Model:
        size_vox, channels = self.settings.size_vox, self.volumes.channels
        context = Context(cell.num_labels, self.settings.batch, cell.steps, size_vox, channels, cell.seed)
        model = build(self.network, self.kind, context, self.settings.precision, self.settings.channels_last)
        if cell.run is not None:
            load_initial(model.network, self._weights_of(cell.run), self.initialisation.load)
        return model.to(self.device)

    def _weights_of(self, run: str) -> Path:
        return weights_path(self.where.run(run), self.initialisation.load)

    @cached_property
    def _weights(self) -> dict[str, str]:
        """sha256 of the weights of each run, so that a run made anew makes its cells anew."""
        found = {}
        for run in self.runs.values():
            path = self._weights_of(run)
            if not path.exists():
                raise ValueError(f"{path}: there are no weights; run `vesalius pretrain {self.where.root} {run}` first")
            found[run] = digest(path)
        return found

    def _cell_settings(self, cell: Cell, judged: tuple[str, ...]) -> dict[str, Any]:
        """All that a cell's results depend on; where the labels lie is no part of it, ``data_digest`` says what they are."""
        task = {key: value for key, value in self.plan.tasks[self.transfer.task].items() if key not in ("labels", *READ_LABELS)}
        shared = self.settings.settled("batch", "size_vox", "weight_decay", "warmup", "precision", "threads")
        return {
            **asdict(cell), **shared, "task": task, "network": self.network, "judged": list(judged),
            "load": self.initialisation.load, "encoder_rate": self.initialisation.encoder_rate, "version": __version__,
            "data_digest": self.data_digest, "weights_digest": self._weights[cell.run] if cell.run else None,
        }  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        return {
            "transfer": self.transfer.transfer, "task": self.transfer.task, "initialisation": self.transfer.initialisation,
            "runs": list(self.runs.values()), "weights_digest": digest_of(self._weights), "data_digest": self.data_digest,
            "version": __version__,
            **self.initialisation.model_dump(mode="json", include={"recipe", "load", "encoder_rate", "steps_factor"}),
            **self.settings.settled("batch", "size_vox", "weight_decay", "warmup", "precision", "steps"),
        }  # fmt: skip


def _by_seed(plan: Plan, transfer: Transfer) -> dict[int, str]:
    """Runs of a transfer by pretraining seed, in the study's order of seeds."""
    found = {plan.run(run).seed: run for run in transfer.runs}
    return {seed: found[seed] for seed in plan.study_value().pretrain_seeds if seed in found}
