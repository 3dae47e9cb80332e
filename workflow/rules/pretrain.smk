"""From the manifest to encoders and words: pretrain, embed, discover, lexicon.

Every rule here takes the manifest from the checkpoint `split` itself: a manifest that did not change wakes none of them.
"""


rule pretrain:
    """Train one recipe with one seed; a run that was stopped continues from its checkpoint."""
    input:
        manifest=lambda wildcards: checkpoints.split.get().output.manifest,
        lexicon=lambda wildcards: [f"{FOLDER}/lexicons/{name}.parquet" for name in [RUNS[wildcards.run]["lexicon"]] if name],
        start=lambda wildcards: [f"{FOLDER}/runs/{name}/encoder.safetensors" for name in [RUNS[wildcards.run]["start"]] if name],
    output:
        encoder=f"{FOLDER}/runs/{{run}}/encoder.safetensors",
        card=f"{FOLDER}/runs/{{run}}/encoder.json",
        metrics=f"{FOLDER}/runs/{{run}}/metrics.json",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        resuming=RESUMING,
    log:
        f"{FOLDER}/logs/pretrain/{{run}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/pretrain/{{run}}.tsv"
    threads: RANKS
    priority: 10
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * RANKS * attempt,
        runtime=1440,
        gpu=GPU if HERE else RANKS,
        ranks=RANKS,  # a resource and no parameter: another number of GPUs makes no run anew
    shell:
        "trap : TERM; {params.resuming:q} vesalius pretrain {params.folder:q} {wildcards.run:q} --ranks {resources.ranks:q} 2>&1 | (trap '' TERM USR1 USR2; tee -i {log:q})"


rule embed:
    """Give one embedding per scan and place from a run's encoder."""
    input:
        manifest=lambda wildcards: checkpoints.split.get().output.manifest,
        encoder=rules.pretrain.output.encoder,
    output:
        embeddings=f"{FOLDER}/embeddings/{{run}}.parquet",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
        words=lambda wildcards: json.dumps(
            [PLAN["recipes"][item["recipe"]]["words"] for item in LEXICONS.values() if item["run"] == wildcards.run], sort_keys=True
        ),
    log:
        f"{FOLDER}/logs/embed/{{run}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/embed/{{run}}.tsv"
    threads: 1
    priority: 10
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=240,
        gpu=GPU,
    shell:
        "vesalius embed {params.folder:q} {wildcards.run:q} 2>&1 | tee -i {log:q}"


rule discover:
    """Find visual words in a run's embeddings: places that recur from subject to subject."""
    input:
        manifest=lambda wildcards: checkpoints.split.get().output.manifest,
        embeddings=lambda wildcards: f"{FOLDER}/embeddings/{LEXICONS[wildcards.lexicon]['run']}.parquet",
    output:
        lexicon=f"{FOLDER}/lexicons/{{lexicon}}.parquet",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
    log:
        f"{FOLDER}/logs/discover/{{lexicon}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/discover/{{lexicon}}.tsv"
    threads: 1
    priority: 10
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=240,
    shell:
        "vesalius discover {params.folder:q} {wildcards.lexicon:q} 2>&1 | tee -i {log:q}"


rule lexicon:
    """Put every lexicon of the study into one table."""
    input:
        manifest=lambda wildcards: checkpoints.split.get().output.manifest,
        lexicons=expand(rules.discover.output.lexicon, lexicon=LEXICONS),
    output:
        table=f"{FOLDER}/lexicon.parquet",
    params:
        folder=lambda wildcards: FOLDER,
        version=VERSION,
    log:
        f"{FOLDER}/logs/lexicon.log",
    benchmark:
        f"{FOLDER}/benchmarks/lexicon.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "vesalius discover {params.folder:q} --merge 2>&1 | tee -i {log:q}"
