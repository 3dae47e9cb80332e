"""The plan before the work: every default resolved, every run, transfer and comparison named.

A run is named by the hash of its resolved recipe, its seed and the hashes of the runs it builds on, so that a changed recipe never
passes for an old run. ``plan.json`` holds all of it; the Snakefile and every verb read that file, never the YAML.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.configuration import read_config
from pipeline.files import digest, digest_of, read_json
from pipeline.folder import StudyFolder
from pipeline.plugins import meant
from pipeline.recipe import Recipe, refuse_uneven, settled
from pipeline.study import Initialisation, Study
from pipeline.task import Task


@dataclass(frozen=True)
class Run:
    """One pretraining: a recipe and a seed. ``needs`` are runs it continues or whose encoder finds its words."""

    run: str
    recipe: str
    seed: int
    start: str | None
    lexicon: str | None
    needs: tuple[str, ...]


@dataclass(frozen=True)
class LexiconPlan:
    """One lexicon: the words that ``run``'s encoder finds with a recipe's ``words`` settings."""

    lexicon: str
    run: str
    recipe: str


@dataclass(frozen=True)
class Transfer:
    """All sizes and seeds of one initialisation on one task: one job. ``runs`` has one run for each pretraining seed; ``after`` is the
    transfer whose search it takes its learning rate and length from."""

    transfer: str
    task: str
    initialisation: str
    runs: tuple[str, ...]
    planned: bool
    after: str | None = None


@dataclass(frozen=True)
class Plan:
    """``plan.json`` as a value. ``study``, ``recipes``, ``tasks`` are complete: no default is left out."""

    version: str
    study: dict[str, Any]
    recipes: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    shards: tuple[str, ...]
    runs: tuple[Run, ...]
    lexicons: tuple[LexiconPlan, ...]
    transfers: tuple[Transfer, ...]
    comparisons: tuple[dict[str, Any], ...]
    inputs: dict[str, str]
    results: str
    store_format: int = 0  # of volumes/jobs.py; another wakes `preprocess` and renames no run; 0: from before it was told

    def run(self, name: str) -> Run:
        return _named(self.runs, "run", name)

    def lexicon(self, name: str) -> LexiconPlan:
        return _named(self.lexicons, "lexicon", name)

    def transfer(self, name: str) -> Transfer:
        return _named(self.transfers, "transfer", name)

    def study_value(self) -> Study:
        return Study.model_validate(self.study)

    def recipe_value(self, name: str) -> Recipe:
        return Recipe.model_validate(self.recipes[name])

    def task_value(self, name: str) -> Task:
        return Task.model_validate(self.tasks[name])


def make_plan(study_path: Path | str, data: str | None = None, results: str = "results") -> Plan:
    """Reads the study and all it names, and resolves it. Wrong keys and missing recipes are ``ValueError``s."""
    study: Study = read_config(study_path, Study)
    inputs = {str(study_path): digest(study_path)}
    study = study.model_copy(update={"data": data if data is not None else study.data})
    recipes = {r.name: r for r in _read_all(study_path, "recipes", study.recipes, Recipe, inputs)}
    tasks = {t.name: t for t in _read_all(study_path, "tasks", study.tasks, Task, inputs)}
    refuse_uneven(f"{study_path}: gpus_per_run", study.gpus_per_run, recipes.values())
    runs, lexicons = _plan_runs(study_path, study, recipes)
    transfers = _plan_transfers(study_path, study, tasks, runs)
    return Plan(
        version=__version__,
        study=_filled(study.model_dump(mode="json", by_alias=True), study.data),
        recipes={name: recipe.model_dump(mode="json", by_alias=True) for name, recipe in recipes.items()},
        tasks={name: _filled(task.model_dump(mode="json", by_alias=True), study.data) for name, task in tasks.items()},
        shards=shard_names(study.shards),
        runs=tuple(runs.values()),
        lexicons=tuple(lexicons.values()),
        transfers=tuple(transfers),
        comparisons=tuple(_comparisons(transfers)),
        inputs=inputs,
        results=str(Path(results) / study.name),
    )


def read_plan(folder: Path | str) -> tuple[Plan, StudyFolder]:
    """The plan of a study's folder."""
    where = StudyFolder(Path(folder))
    if not where.plan.exists():
        raise ValueError(f"{where.plan}: there is no plan; run `vesalius plan STUDY.yaml` first")
    value = read_json(where.plan)
    value |= {key: tuple(value[key]) for key in ("shards", "comparisons")}
    value["runs"] = tuple(Run(**{**run, "needs": tuple(run["needs"])}) for run in value["runs"])
    value["lexicons"] = tuple(LexiconPlan(**item) for item in value["lexicons"])
    value["transfers"] = tuple(Transfer(**{**item, "runs": tuple(item["runs"])}) for item in value["transfers"])
    return Plan(**value), where


def plan_json(plan: Plan) -> dict[str, Any]:
    return asdict(plan)


def shard_names(number: int) -> tuple[str, ...]:
    """Names of the shards; ``shard_of`` assigns a scan to one."""
    return tuple(f"{shard:02x}" for shard in range(number))


def shard_of(scan_id: str, shards: tuple[str, ...]) -> str:
    """A pure function of the scan's id: a new scan touches one shard."""
    return shards[int(digest_of(scan_id)[:8], 16) % len(shards)]


def _named(items: tuple[Any, ...], key: str, name: str) -> Any:
    for item in items:
        if getattr(item, key) == name:
            return item
    raise ValueError(f"{name}: the plan has no such {key}; it has {', '.join(getattr(i, key) for i in items) or 'none'}")


def _read_all(study_path: Path | str, key: str, paths: tuple[str, ...], kind: type, inputs: dict[str, str]) -> list[Any]:
    values = []
    for path in paths:
        found = next((p for p in (Path(path), Path(study_path).parent / path) if p.is_file()), None)
        if found is None:
            raise ValueError(f"{study_path}: {key}: there is no file {path!r} here or beside the study")
        inputs[str(found)] = digest(found)
        values.append(read_config(found, kind))
    return values


def _filled(value: Any, data: str) -> Any:
    if isinstance(value, str):
        return value.replace("{data}", data)
    if isinstance(value, dict):
        return {key: _filled(item, data) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(item, data) for item in value]
    return value


def _plan_runs(path: Path | str, study: Study, recipes: dict[str, Recipe]) -> tuple[dict[str, Run], dict[str, LexiconPlan]]:
    runs: dict[str, Run] = {}
    lexicons: dict[str, LexiconPlan] = {}
    pending: list[tuple[str, int]] = []

    def plan(name: str, seed: int, wanted_by: str) -> Run:
        if name not in recipes:
            raise ValueError(f"{path}: {wanted_by} names the recipe {name!r}, which is not under `recipes`; there are {', '.join(recipes)}")
        if (name, seed) in pending:
            raise ValueError(f"{path}: the recipe {name!r} builds on itself through {' -> '.join(n for n, _ in pending)}")
        for run in runs.values():
            if (run.recipe, run.seed) == (name, seed):
                return run
        pending.append((name, seed))
        recipe = recipes[name]
        start = plan(recipe.start, seed, f"recipe {name}: from").run if recipe.start else None
        lexicon = None
        if recipe.words:
            encoder = plan(recipe.words.encoder, seed, f"recipe {name}: words.encoder").run
            lexicon = f"{recipe.words.encoder}-s{seed}-{digest_of([encoder, recipe.words.model_dump(mode='json')])[:10]}"
            lexicons.setdefault(lexicon, LexiconPlan(lexicon, encoder, name))
        content = settled(recipe.model_dump(mode="json", exclude={"description"}))
        run_hash = digest_of([content, seed, start, lexicon, _data_settings(study)])[:10]
        needs = tuple(item for item in (start, lexicons[lexicon].run if lexicon else None) if item)
        run = Run(f"{name}-s{seed}-{run_hash}", name, seed, start, lexicon, needs)
        runs[run.run] = run
        pending.pop()
        return run

    for name in recipes:
        for seed in study.pretrain_seeds:
            plan(name, seed, "recipes")
    return runs, lexicons


def _data_settings(study: Study) -> dict[str, Any]:
    """What of the study a pretraining run sees: another spacing or pool is another run."""
    dump = study.model_dump(mode="json")
    return {key: dump[key] for key in ("preprocess", "split", "pool", "channels")}


def _plan_transfers(path: Path | str, study: Study, tasks: dict[str, Task], runs: dict[str, Run]) -> list[Transfer]:
    initialisations = study.initialisations or {"scratch": Initialisation()}
    transfers = []
    for task in tasks.values():
        for name, initialisation in initialisations.items():
            recipe = initialisation.recipe
            wanted = [run for run in runs.values() if run.recipe == recipe]
            if recipe and not wanted:
                told = f"{recipe!r} is not under `recipes`; {meant(recipe, {run.recipe for run in runs.values()})}"
                raise ValueError(f"{path}: initialisations.{name}.recipe: {told}")
            built_on = tuple(run.run for run in wanted)
            settings = [_without_sizes(initialisation.model_dump(mode="json")), _without_sizes(study.finetune.settled()), task.settings()]
            transfer_hash = digest_of([settings, built_on, _data_settings(study)])[:10]
            transfers.append(Transfer(f"{task.name}-{name}-{transfer_hash}", task.name, name, built_on, initialisation.planned))
    return [replace(item, after=_tuned_as(path, item, initialisations, transfers)) for item in transfers]


def _tuned_as(path: Path | str, transfer: Transfer, initialisations: dict[str, Initialisation], transfers: list[Transfer]) -> str | None:
    wanted = initialisations[transfer.initialisation].tuned_as
    if wanted is None:
        return None
    if wanted not in initialisations or initialisations[wanted].tuned_as:
        raise ValueError(
            f"{path}: initialisations.{transfer.initialisation}.tuned_as: {wanted!r} is no initialisation with a search of its own"
        )
    return next(item.transfer for item in transfers if (item.task, item.initialisation) == (transfer.task, wanted))


def _without_sizes(values: dict[str, Any]) -> dict[str, Any]:
    """Settings that every cell of a transfer shares: one more size or seed adds cells, and the finished ones stay what they are."""
    return {name: value for name, value in values.items() if name not in ("num_labels", "seeds", "seeds_above")}


def _comparisons(transfers: list[Transfer]) -> list[dict[str, Any]]:
    """Every planned initialisation against scratch on each task: the family of Holm's correction."""
    others = [item for item in transfers if item.initialisation != "scratch"]
    return [{"task": t.task, "initialisation": t.initialisation, "against": "scratch", "planned": t.planned} for t in others]
