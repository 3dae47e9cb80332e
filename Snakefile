"""Vesalius: from a folder of scans to a transfer verdict.

snakemake --cores all
snakemake --cores all --config study=configs/studies/hippocampus.yaml data=DIR results=results

`vesalius plan` resolves the study into results/STUDY/plan.json; the rules read that file and call one verb each. `vesalius run STUDY`
wraps all of this and recovers from a killed run.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version, validate


min_version("9.27")


container: "docker://python:3.11"  # inert without --sdm: rules run in the environment that Snakemake itself runs in


STUDY = config.setdefault("study", "configs/studies/demo.yaml")
RESULTS = config.setdefault("results", "results")
COMMANDS = config.setdefault("bin", str(Path(sys.executable).parent))  # where the command `vesalius` is
if unknown := sorted(set(config) - {"study", "data", "results", "gpus", "bin"}):
    raise WorkflowError(f"--config {unknown[0]}: is no key; there are study, data, results, gpus and bin")
os.environ.update(PATH=os.pathsep.join([COMMANDS, *os.get_exec_path()]))
if "gpus" not in config:
    config["gpus"] = subprocess.getoutput("nvidia-smi -L").count("GPU ") if shutil.which("nvidia-smi") else 0
PLANNING = ["vesalius", "plan", STUDY, "--results", RESULTS, "--refresh"]
PLANNING += ["--data", str(config["data"])] if "data" in config else []
if workflow.is_main_process and subprocess.run(PLANNING, stdout=subprocess.DEVNULL).returncode:
    sys.exit(1)

study = yaml.safe_load(Path(STUDY).read_text())
validate(study, "configs/schemas/study.json", set_default=False)
FOLDER = f"{RESULTS}/{study.get('name', Path(STUDY).stem.replace('-', '_'))}"
PLAN = json.loads(Path(FOLDER, "plan.json").read_text())
VERSION = PLAN["version"]
RUNS = {run["run"]: run for run in PLAN["runs"]}
LEXICONS = {lexicon["lexicon"]: lexicon for lexicon in PLAN["lexicons"]}
TRANSFERS = {transfer["transfer"]: transfer for transfer in PLAN["transfers"]}
# One training at a time has the cards of this machine; on a cluster, the scheduler gives each job its own (workflow/profiles/slurm).
RANKS = PLAN["study"]["gpus_per_run"]
GPU = min(int(config["gpus"]), RANKS)
HERE = workflow.is_main_process and workflow.resource_settings.nodes is None
if HERE and 0 < GPU < RANKS:
    raise WorkflowError(f"{STUDY}: gpus_per_run: is {RANKS}, but this machine has {GPU} GPUs; write {GPU}, or --config gpus=0 for CPUs")
if HERE and GPU and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPU)
RESUMING = f"{workflow.basedir}/workflow/resuming.sh"  # what a training that ends with 75 goes through
OPEN = []


wildcard_constraints:
    shard="[0-9a-f]{2}",
    run="[a-z0-9_-]+",
    lexicon="[a-z0-9_-]+",
    transfer="[a-z0-9_-]+",


localrules:
    all,
    plan,
    sample,
    mirror,


include: "workflow/rules/study.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/report.smk"


rule all:
    """Everything the study asks for; each by its name, so that a file that somebody removed is made again."""
    input:
        rules.index.output.inventory,
        rules.index.output.quarantine,
        rules.split.output.manifest,
        expand(rules.pretrain.output.encoder, run=RUNS),
        [rules.lexicon.output.table] if LEXICONS else [],
        expand(rules.finetune.output.cases, transfer=TRANSFERS),
        [rules.verdict.output.table] if TRANSFERS else [],
        rules.report.output.page,
        rules.mirror.output.done,
    default_target: True


onstart:
    lease = open(f"{FOLDER}/.lease", "a")
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkflowError(f"{FOLDER}: another snakemake works on this study; wait for it or end it")
    follow = ["vesalius", "mirror", FOLDER, "--follow", "--every", "10", "--until-pid", str(os.getpid())]
    with open(f"{FOLDER}/mirror.log", "a") as words:
        OPEN.extend([lease, subprocess.Popen(follow, stdout=words, stderr=words)])


onsuccess:
    OPEN[1].terminate()
    OPEN[1].wait()


onerror:
    OPEN[1].terminate()
    OPEN[1].wait()
