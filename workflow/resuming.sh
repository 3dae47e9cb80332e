#!/bin/sh
# Runs a training. One that was told to stop saves and ends with 75, "resume me": what then goes on with it is decided here.
#
#   resuming.sh vesalius pretrain FOLDER RUN
#
# In a Slurm job the job is put back into the queue, and this script stays until Slurm ends it: one job, for which Snakemake keeps waiting.
# Where that is not allowed, and elsewhere if this script was told to end too or Snakemake is gone, 75 is passed on. Otherwise somebody
# signalled the training alone, and it goes on at once.
told=
trap 'told=1' TERM
trap '' USR1 USR2
snakemake=$(ps -o ppid= -p "$PPID")
while :; do
    "$@"
    code=$?
    [ "$code" -eq 75 ] || exit "$code"
    if [ -n "$SLURM_JOB_ID" ]; then
        scontrol requeue "$SLURM_JOB_ID" || exit 75
        echo "job $SLURM_JOB_ID is back in the queue"
        while :; do sleep 60; done
    fi
    [ -z "$told" ] && [ "$(ps -o ppid= -p "$PPID")" = "$snakemake" ] || exit 75
    echo "going on"
done
