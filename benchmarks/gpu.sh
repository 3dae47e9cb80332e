#!/usr/bin/env bash
# What Vesalius costs on a GPU, in one command of less than eight minutes: device, networks, views, loader, a real loop, parity, resume.
#
#   bash benchmarks/gpu.sh [--rehearsal] [--device cpu] [--out FOLDER] [PART ...]
#
# Needs a python3 with PyTorch; wheels of what is missing there may lie in .whl/. Writes gpu.json and gpu.md to $OUT, or to results/gpu.
cd "$(dirname "$0")/.." || exit 1
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
if compgen -G ".whl/*.whl" >/dev/null; then
    site="$(mktemp -d)/site"
    "${PYTHON:-python3}" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl || exit 1
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "${PYTHON:-python3}" benchmarks/gpu.py --out "${OUT:-results/gpu}" "$@"
