# make demo: the whole pipeline on an embedded cohort. make test: all tests. Both set themselves up in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := $(shell nvidia-smi -L >/dev/null 2>&1 && echo constraints/gpu.txt || echo constraints/cpu.txt)
TORCH_INDEX := $(if $(findstring cpu,$(CONSTRAINTS)),--extra-index-url https://download.pytorch.org/whl/cpu)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
STAMP := $(VENV)/set-up

.PHONY: demo test setup lint clean

demo: setup
	$(BIN)/vesalius run configs/studies/demo.yaml

test: setup
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vesalius schema --check
	$(BIN)/snakemake --lint

# Installs once: again only when pyproject.toml, the constraints or the kind of machine changed; anew when the checkout was moved.
# PyTorch comes first and alone, so that its own index is asked for no other package.
setup:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Vesalius needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@wanted="$$(cat pyproject.toml $(CONSTRAINTS) | cksum) $(CONSTRAINTS) in $(CURDIR)"; known="$$(cat $(STAMP) 2>/dev/null)"; \
	if [ "$$known" != "$$wanted" ]; then \
		echo "Setting up $(VENV) with $(CONSTRAINTS); this takes a few minutes, once"; \
		case "$$known" in *" in $(CURDIR)") anew= ;; *) anew=--clear ;; esac; \
		$(PYTHON) -m venv $$anew $(VENV) && \
		$(PIP) --no-deps $(TORCH_INDEX) torch && $(PIP) --editable '.[test]' && \
		echo "$$wanted" > $(STAMP); \
	fi

clean:
	rm -rf $(VENV) .snakemake .pytest_cache .ruff_cache .hypothesis *.egg-info
