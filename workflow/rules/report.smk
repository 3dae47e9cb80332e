"""What people look at: report, mirror."""


rule report:
    """Write the page: what went in, what was refused, words, curves, the verdict and its cost."""
    input:
        manifest=lambda wildcards: checkpoints.split.get().output.manifest,
        encoders=expand(rules.pretrain.output.encoder, run=RUNS),
        lexicon=[rules.lexicon.output.table] if LEXICONS else [],
        verdict=[rules.verdict.output.table] if TRANSFERS else [],
    output:
        page=f"{FOLDER}/report.html",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
    log:
        f"{FOLDER}/logs/report.log",
    benchmark:
        f"{FOLDER}/benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "vesalius report {params.folder:q} 2>&1 | tee -i {log:q}"


rule mirror:
    """Push what the files say to MLflow. A server that is down fails nothing: the next `vesalius mirror` pushes what is missing."""
    input:
        manifest=lambda wildcards: checkpoints.split.get().output.manifest,
        report=rules.report.output.page,
    output:
        done=touch(f"{FOLDER}/.mirrored"),
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        settings=json.dumps(PLAN["study"]["tracking"], sort_keys=True),
    log:
        f"{FOLDER}/logs/mirror.log",
    benchmark:
        f"{FOLDER}/benchmarks/mirror.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "vesalius mirror {params.folder:q} 2>&1 | tee -i {log:q}"
