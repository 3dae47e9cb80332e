"""Seconds and memory of each stage come from Snakemake's own files."""

import os

from pipeline.tracking.costs import StageCost, stage_costs


def test_costs_are_summed_by_stage_in_the_order_of_their_end(tmp_path):
    head = "s\th:m:s\tmax_rss\n"
    for number, (name, row) in enumerate(
        (("index.tsv", "1.5\t0:00:01\t-\n"), ("pretrain/b.tsv", "10\t0:00:10\t900.5\n"), ("pretrain/a.tsv", "20\t0:00:20\t800\n"))
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(head + row)
        os.utime(path, (number, number))
    assert stage_costs(tmp_path) == [StageCost("index", 1, 1.5, 0.0), StageCost("pretrain", 2, 30.0, 900.5)]
