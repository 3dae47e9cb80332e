"""From encoders to the verdict: finetune, verdict."""


rule finetune:
    """Fine-tune one initialisation on one task: every size and every seed, in one process."""
    input:
        manifest=lambda wildcards: checkpoints.split.get().output.manifest,
        encoders=lambda wildcards: [f"{FOLDER}/runs/{run}/encoder.safetensors" for run in TRANSFERS[wildcards.transfer]["runs"]],
        tuned=lambda wildcards: [f"{FOLDER}/transfers/{name}/cases.parquet" for name in [TRANSFERS[wildcards.transfer].get("after")] if name],
    output:
        cases=f"{FOLDER}/transfers/{{transfer}}/cases.parquet",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        resuming=RESUMING,
        settings=lambda wildcards: json.dumps(
            [PLAN["study"]["finetune"], PLAN["study"]["initialisations"].get(TRANSFERS[wildcards.transfer]["initialisation"])], sort_keys=True
        ),
    log:
        f"{FOLDER}/logs/finetune/{{transfer}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/finetune/{{transfer}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=1440,
        gpu=GPU,
    shell:
        "trap : TERM; {params.resuming:q} vesalius finetune {params.folder:q} {wildcards.transfer:q} 2>&1 | (trap '' TERM USR1 USR2; tee -i {log:q})"


rule verdict:
    """Compare every initialisation with scratch: paired differences, intervals, tests, labels saved."""
    input:
        manifest=lambda wildcards: checkpoints.split.get().output.manifest,
        cases=expand(rules.finetune.output.cases, transfer=TRANSFERS),
    output:
        table=f"{FOLDER}/verdict.tsv",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        settings=json.dumps([PLAN["study"]["verdict"], PLAN["comparisons"]], sort_keys=True),
    log:
        f"{FOLDER}/logs/verdict.log",
    benchmark:
        f"{FOLDER}/benchmarks/verdict.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "vesalius verdict {params.folder:q} 2>&1 | tee -i {log:q}"
