"""The mirror: pushes what the files say to an MLflow store, as often as it is called.

One experiment a study. A parent run for each recipe (and one for scratch); its pretraining seeds and its transfers lie directly under it,
since MLflow's page shows one level of nesting. Every MLflow run carries the tag ``vesalius.key`` and what was pushed of its journal
(``curve.py``): a second push adds only what is new, a run whose journal was rewritten takes the place of the one that was there, and a
store lost or never reached is made again from the files alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.files import read_json
from pipeline.folder import StudyFolder
from pipeline.plan import Plan, Transfer
from pipeline.tracking.curve import Pushed, compare, pushed
from pipeline.tracking.journal import read_journal

KEY, PUSHED = "vesalius.key", "vesalius.pushed"
BATCH = 900  # an MLflow request takes at most 1000 metrics


class Mirror:
    """One study in one MLflow store."""

    def __init__(self, plan: Plan, where: StudyFolder, uri: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        import logging

        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        self.plan, self.where = plan, where
        self.own = uri is None
        self.uri = uri or f"sqlite:///{where.mlflow}"
        where.root.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(tracking_uri=self.uri)
        self.experiment = self._experiment()
        self.runs: dict[str, str] = {}

    def push(self, folders: tuple[StudyFolder, ...] = ()) -> int:
        """Pushes everything that is new in the study's folder, and in copies of it from other machines; returns the number of points."""
        self.runs = self._known()
        return sum(self._push_folder(where) for where in (self.where, *folders))

    def clear(self) -> None:
        """Removes this study's runs from the store."""
        for run_id in self._known().values():
            self.client.delete_run(run_id)

    def _push_folder(self, where: StudyFolder) -> int:
        points = 0
        for run in self.plan.runs:
            if where.journal(run.run).exists():
                tags = {"recipe": run.recipe, "seed": str(run.seed), "stage": "pretrain"}
                found, run_id = self._push_journal(f"run:{run.run}", run.run, run.recipe, tags, where.journal(run.run))
                points += found
                self._push_card(run_id, where.run(run.run))
        for transfer in self.plan.transfers:
            journal = where.transfer(transfer.transfer) / "journal.jsonl"
            if journal.exists():
                points += self._push_transfer(transfer, where, journal)
        self._push_verdict(where)
        self._end_parents(where)
        return points

    def _push_transfer(self, transfer: Transfer, where: StudyFolder, journal: Path) -> int:
        recipe = self._recipe_of(transfer.initialisation)
        tags = {"task": transfer.task, "initialisation": transfer.initialisation, "stage": "finetune"}
        points, run_id = self._push_journal(f"transfer:{transfer.transfer}", transfer.transfer, recipe, tags, journal)
        if where.cases(transfer.transfer).exists():
            self._artifact_once(run_id, where.cases(transfer.transfer))
            self._end(run_id)
        return points

    def _push_journal(self, key: str, name: str, recipe: str, tags: dict[str, str], journal: Path) -> tuple[int, str]:
        """Metrics of every line that was not pushed: (how many, the MLflow run). A rewritten journal gets a new run instead."""
        entries, run_id = read_journal(journal), self._run(key, name, self._parent(recipe), tags)
        before = Pushed.read(self._tag(run_id, PUSHED))
        told = compare(entries, before)
        if told == "is behind":
            return 0, run_id
        if told == "was rewritten":
            self.client.delete_run(self.runs.pop(key))
            run_id, before = self._run(key, name, self._parent(recipe), tags), Pushed()
        for entry in entries:
            if entry["kind"] == "start":
                self._params(run_id, {k: v for k, v in entry.items() if k not in ("kind", "time")})
        points = [point for entry in before.new(entries) for point in _points(entry)]
        for first in range(0, len(points), BATCH):
            self.client.log_batch(run_id, metrics=points[first : first + BATCH])
        if points:
            self.client.set_tag(run_id, PUSHED, pushed(entries).text())
        return len(points), run_id

    def _push_card(self, run_id: str, folder: Path) -> None:
        card = folder / "run.json"
        if not card.exists():
            return
        value = read_json(card)
        tags = {
            "vesalius.recipe_digest": value["recipe_digest"],
            "vesalius.data_digest": value["manifest_digest"],
            "vesalius.version": value["version"],
        }
        for name, text in tags.items():
            self.client.set_tag(run_id, name, text)
        self._params(run_id, _flat(value["resolved"]))
        if (folder / "metrics.json").exists() and (folder / "encoder.safetensors").exists():
            for name in ("encoder.safetensors", "encoder.json"):
                self._artifact_once(run_id, folder / name)
            self._end(run_id)

    def _push_verdict(self, where: StudyFolder) -> None:
        """Verdict figures as metrics of the parents, so that they can be sorted and filtered; files on a run of their own."""
        if not where.verdict.exists():
            return
        import pandas as pd
        from mlflow.entities import Metric

        table, when = pd.read_csv(where.verdict, sep="\t"), where.verdict.stat().st_mtime_ns // 1_000_000
        figures = ("dice_mean", "diff_mean", "ci_low", "ci_high", "p_raw", "p_holm")
        for row in table.to_dict("records"):
            names = {f"verdict/{row['task']}/{row['num_labels']}/{name}": row[name] for name in figures}
            found = [Metric(name, float(value), when, 0) for name, value in names.items() if value == value and value is not None]
            for run_id in self._judged(row["task"], row["initialisation"]):
                self.client.log_batch(run_id, metrics=found)
        run_id = self._run("verdict", "verdict", None, {"stage": "verdict"})
        for path in (where.verdict, where.root / "verdict.json", where.report, *sorted((where.root / "figures").glob("*"))):
            if path.exists():
                self._artifact_once(run_id, path)
        self._end(run_id)
        self._note(where)

    def _judged(self, task: str, initialisation: str) -> list[str]:
        """The runs that a row of the verdict is about: equal names on all of them make columns that can be sorted and filtered."""
        transfer = next(t for t in self.plan.transfers if (t.task, t.initialisation) == (task, initialisation))
        recipe = self._recipe_of(initialisation)
        alone = sum(self._recipe_of(t.initialisation) == recipe for t in self.plan.transfers if t.task == task) == 1
        found = [self.runs[key] for key in (f"transfer:{transfer.transfer}",) if key in self.runs]
        return [*found, self._parent(recipe)] if alone else found

    def _recipe_of(self, initialisation: str) -> str:
        return self.plan.study["initialisations"].get(initialisation, {}).get("recipe") or "scratch"

    def _end_parents(self, where: StudyFolder) -> None:
        """A recipe's parent has ended when all under it have."""
        recipes = [run.recipe for run in self.plan.runs] + [self._recipe_of(t.initialisation) for t in self.plan.transfers]
        for recipe in dict.fromkeys(recipes):
            made = [where.encoder(run.run) for run in self.plan.runs if run.recipe == recipe]
            made += [where.cases(t.transfer) for t in self.plan.transfers if self._recipe_of(t.initialisation) == recipe]
            if f"parent:{recipe}" in self.runs and all(path.exists() for path in made):
                self._end(self._parent(recipe))

    def _note(self, where: StudyFolder) -> None:
        """The verdict in words, above the experiment's runs."""
        beside = where.root / "verdict.json"
        if beside.exists():
            value = read_json(beside)
            text = "\n".join(f"- {line}" for line in [*value.get("stamps", []), *value.get("sentences", [])])
            self.client.set_experiment_tag(self.experiment, "mlflow.note.content", text)

    def _experiment(self) -> str:
        name = self.plan.study["name"]
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        where = (self.where.root / "mlartifacts").absolute().as_uri() if self.own else None
        # the kind makes MLflow open its page for training runs, not the one for language models
        return self.client.create_experiment(name, artifact_location=where, tags={"mlflow.experimentKind": "custom_model_development"})

    def _known(self) -> dict[str, str]:
        found, token = {}, None
        while True:
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            found |= {run.data.tags[KEY]: run.info.run_id for run in page if KEY in run.data.tags}
            token = page.token
            if not token:
                return found

    def _parent(self, recipe: str) -> str:
        return self._run(f"parent:{recipe}", recipe, None, {"recipe": recipe, "stage": "recipe"})

    def _run(self, key: str, name: str, parent: str | None, tags: dict[str, str]) -> str:
        if key not in self.runs:
            tags = {**tags, KEY: key, "mlflow.runName": name, "mlflow.user": "vesalius"}
            if parent:
                tags["mlflow.parentRunId"] = parent
            self.runs[key] = self.client.create_run(self.experiment, tags=tags).info.run_id
        return self.runs[key]

    def _params(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(name, str(value)[:500]) for name, value in values.items() if name not in known]
        for first in range(0, len(new), 90):
            self.client.log_batch(run_id, params=new[first : first + 90])

    def _artifact_once(self, run_id: str, path: Path) -> None:
        """Uploads a file unless the run has it with this size and time."""
        mark, name = f"{path.stat().st_size}-{path.stat().st_mtime_ns}", f"vesalius.file.{path.name}"
        if self._tag(run_id, name) != mark:
            self.client.log_artifact(run_id, str(path))
            self.client.set_tag(run_id, name, mark)

    def _tag(self, run_id: str, name: str) -> str:
        return self.client.get_run(run_id).data.tags.get(name, "")

    def _end(self, run_id: str) -> None:
        if self.client.get_run(run_id).info.status == "RUNNING":
            self.client.set_terminated(run_id)


def _points(entry: dict[str, Any]) -> list[Any]:
    """MLflow's metrics of a line of the journal."""
    from mlflow.entities import Metric

    prefix, when = "validation/" if entry["kind"] == "evaluate" else "", int(entry["time"] * 1000)
    return [Metric(prefix + name, v, when, entry["step"]) for name, v in entry["metrics"].items() if isinstance(v, int | float)]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``objectives.restoration.weight``."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{prefix}{name}.") if isinstance(item, dict) else {f"{prefix}{name}": item}
    return flat
