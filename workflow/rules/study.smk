"""Before any scan is read: sample, plan."""


rule sample:
    """Make or fetch the study's public cohort; sources.txt is read again, since there are new files now."""
    output:
        card=f"{FOLDER}/sample.json",
    params:
        folder=lambda wildcards: FOLDER,
        planning=PLANNING,
        version=VERSION,
        settings=json.dumps([PLAN["study"][key] for key in ("sample", "data")], sort_keys=True),
    log:
        f"{FOLDER}/logs/sample.log",
    benchmark:
        f"{FOLDER}/benchmarks/sample.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "(vesalius sample {params.folder:q} && {params.planning:q}) 2>&1 | tee -i {log:q}"


rule plan:
    """Resolve the study. Reading the Snakefile does the same; no rule takes plan.json, so that one edited recipe wakes no other."""
    input:
        yaml=[path for path in PLAN["inputs"] if Path(path).is_file()],
    output:
        plan=f"{FOLDER}/plan.json",
    params:
        planning=PLANNING,
        version=VERSION,
    log:
        f"{FOLDER}/logs/plan.log",
    benchmark:
        f"{FOLDER}/benchmarks/plan.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        "{params.planning:q} 2>&1 | tee -i {log:q}"
