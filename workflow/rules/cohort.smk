"""From source files to one manifest: sample, plan, index, preprocess, split.

`index` and `split` are checkpoints: once they have run, what follows is judged anew, by the content of the shard tables and of the
manifest. So a new scan wakes its own shard only, and a touched file that changed nothing wakes nothing.
"""


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


checkpoint index:
    """Account for every source file: which belong to a scan, which are refused and why; one table a shard."""
    input:
        sample=rules.sample.output.card,
        sources=f"{FOLDER}/sources.txt",
    output:
        inventory=f"{FOLDER}/inventory.tsv",
        quarantine=f"{FOLDER}/quarantine.tsv",
        shards=expand(f"{FOLDER}/shards/{{shard}}.tsv", shard=PLAN["shards"]),
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        settings=json.dumps([PLAN["study"][key] for key in ("sources", "identity", "channels", "max_refused")], sort_keys=True),
    log:
        f"{FOLDER}/logs/index.log",
    benchmark:
        f"{FOLDER}/benchmarks/index.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=lambda wildcards, attempt: 240 * attempt,
    shell:
        "vesalius index {params.folder:q} 2>&1 | tee -i {log:q}"


rule preprocess:
    """Turn the scans of one shard into stored volumes, and their labels with them."""
    input:
        shard=lambda wildcards: checkpoints.index.get().output.shards[PLAN["shards"].index(wildcards.shard)],
    output:
        manifest=f"{FOLDER}/shards/{{shard}}.parquet",
        refused=f"{FOLDER}/shards/{{shard}}.refused.tsv",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        settings=json.dumps([PLAN["study"]["preprocess"], PLAN["study"]["channels"], PLAN["tasks"]], sort_keys=True),
    log:
        f"{FOLDER}/logs/preprocess/{{shard}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/preprocess/{{shard}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    shell:
        "vesalius preprocess {params.folder:q} {wildcards.shard:q} 2>&1 | tee -i {log:q}"


checkpoint split:
    """Find twins, split by cluster of subjects, and write the manifest."""
    input:
        shards=expand(rules.preprocess.output.manifest, shard=PLAN["shards"]),
        refused=expand(rules.preprocess.output.refused, shard=PLAN["shards"]),
    output:
        manifest=f"{FOLDER}/manifest.parquet",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        settings=json.dumps(PLAN["study"]["split"], sort_keys=True),
    log:
        f"{FOLDER}/logs/split.log",
    benchmark:
        f"{FOLDER}/benchmarks/split.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "vesalius split {params.folder:q} 2>&1 | tee -i {log:q}"
