"""Stands in for the command line in tests of the DAG: every verb writes its outputs as a digest of its inputs, and notes its call."""

import hashlib
import json
import os
import sys
from pathlib import Path


def digest(*paths):
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest() + "\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_sources(root):
    """Names and times of the scans, as `vesalius plan` does."""
    scans = sorted((root.parent.parent / "scans").glob("*"))
    text = "".join(f"{path.name} {path.stat().st_mtime_ns}\n" for path in scans)
    if not (root / "sources.txt").exists() or (root / "sources.txt").read_text() != text:
        write(root / "sources.txt", text)


def index(root):
    scans = sorted((root.parent.parent / "scans").glob("*"))
    for shard in ("00", "01"):
        write(root / "shards" / f"{shard}.tsv", "".join(f"{p.name} {p.read_text()}\n" for p in scans if p.name.startswith(shard)))
    write(root / "inventory.tsv", "".join(f"{path.name}\n" for path in scans))
    write(root / "quarantine.tsv", "")


def call(verb, root, rest):
    plan = json.loads((root / "plan.json").read_text())
    name = rest[0] if rest else ""
    runs = {run["run"]: run for run in plan["runs"]}
    if verb == "sample":
        write(root.parent.parent / "scans" / "00-public", "made")
        write(root / "sample.json", "{}")
    elif verb == "index":
        index(root)
    elif verb == "preprocess":
        write(root / "shards" / f"{name}.parquet", digest(root / "shards" / f"{name}.tsv"))
        write(root / "shards" / f"{name}.twins.parquet", "")
        write(root / "shards" / f"{name}.refused.tsv", "")
    elif verb == "split":
        write(root / "manifest.parquet", digest(*sorted((root / "shards").glob("*.parquet"))))
        write(root / "twins.tsv", "")
        write(root / "split.json", "{}")
    elif verb == "pretrain":
        run, inputs = runs[name], [root / "manifest.parquet"]
        inputs += [root / "lexicons" / f"{run['lexicon']}.parquet"] if run["lexicon"] else []
        inputs += [root / "runs" / run["start"] / "encoder.safetensors"] if run["start"] else []
        for output in ("encoder.safetensors", "encoder.json", "metrics.json"):
            write(root / "runs" / name / output, digest(*inputs))
    elif verb == "embed":
        write(root / "embeddings" / f"{name}.parquet", digest(root / "runs" / name / "encoder.safetensors"))
    elif verb == "discover" and name == "--merge":
        write(root / "lexicon.parquet", digest(*sorted((root / "lexicons").glob("*"))))
    elif verb == "discover":
        run = next(item["run"] for item in plan["lexicons"] if item["lexicon"] == name)
        write(root / "lexicons" / f"{name}.parquet", digest(root / "embeddings" / f"{run}.parquet"))
    elif verb == "finetune":
        built_on = next(item["runs"] for item in plan["transfers"] if item["transfer"] == name)
        write(root / "transfers" / name / "cases.parquet", digest(*(root / "runs" / run / "encoder.safetensors" for run in built_on)))
    elif verb == "verdict":
        write(root / "verdict.tsv", digest(*(root / "transfers" / t["transfer"] / "cases.parquet" for t in plan["transfers"])))
    elif verb == "report":
        write(root / "report.html", digest(root / "verdict.tsv"))


def main(verb, *rest):
    if verb == "plan":
        study, results = Path(rest[0]), Path(rest[rest.index("--results") + 1])
        write_sources(results / study.stem)
        return
    if "--follow" in rest:
        return
    root = Path(rest[0])
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(" ".join([verb, *rest[1:]]) + "\n")
    call(verb, root, rest[1:])


if __name__ == "__main__":
    main(*sys.argv[1:])
