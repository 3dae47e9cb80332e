"""From source files to one manifest: index, preprocess, split.

`index` and `split` are checkpoints: once they have run, what follows is judged anew, by the content of the shard tables and of the
manifest. So a new scan wakes its own shard only, and a touched file that changed nothing wakes nothing.
"""


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
        twins=f"{FOLDER}/shards/{{shard}}.twins.parquet",
        refused=f"{FOLDER}/shards/{{shard}}.refused.tsv",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        store_format=PLAN["store_format"],
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
        "vesalius preprocess {params.folder:q} {wildcards.shard:q} --memory-mb {resources.mem_mb:q} 2>&1 | tee -i {log:q}"


checkpoint split:
    """Find twins, split by cluster of subjects, write the manifest; what `preprocess` refused joins quarantine.tsv."""
    input:
        shards=expand(rules.preprocess.output.manifest, shard=PLAN["shards"]),
        twins=expand(rules.preprocess.output.twins, shard=PLAN["shards"]),
        refused=expand(rules.preprocess.output.refused, shard=PLAN["shards"]),
    output:
        manifest=f"{FOLDER}/manifest.parquet",
        twins=f"{FOLDER}/twins.tsv",
        counts=f"{FOLDER}/split.json",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        settings=json.dumps([PLAN["study"]["split"], PLAN["study"]["max_refused"]], sort_keys=True),
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
