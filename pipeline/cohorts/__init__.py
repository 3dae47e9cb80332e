"""Public cohorts that a study can make or download: one file a cohort, named by ``sample`` in the study's YAML."""
