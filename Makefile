# Two commands do everything on a fresh machine: `make demo` and `make test`.
# GPU users: make .venv yourself and install your build of torch into it first; the set-up leaves it alone.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo-results
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# pip would compile one file after the other; a few templates in packages are no Python, and say so
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true

.PHONY: demo test lint types style docs viewer clean

demo: $(VENV)/.installed
	@$(BIN)/python -m imaging_pipeline.run sample_data/studies --out $(DEMO_OUT) --save-image
	@echo
	@echo "masks:"
	@find $(DEMO_OUT) -name '*_dseg.nii.gz'
	@echo "index: $(DEMO_OUT)/index   run: $(DEMO_OUT)/run.json   labels: $(DEMO_OUT)/dseg.tsv"
	@echo "report: $(DEMO_OUT)/report.html (open it in a browser)"
	@echo "next:  $(BIN)/python -m imaging_pipeline.run YOUR_STUDIES --out RESULTS --dry-run"

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# What `python -m imaging_pipeline.view` draws with: fetched by npm, pinned; nothing else needs it.
viewer: $(VENV)/.installed
	@$(BIN)/python -m imaging_pipeline.viewer.library

# The documentation in site/index.html: the reference is made from the code; a broken link or anchor is an error.
docs: $(VENV)/.installed-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# `make -j2 lint` does two of its parts beside each other.
lint: docs types style

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

style: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check imaging_pipeline sample_data tests benchmarks
	@$(BIN)/lint-imports
	@$(BIN)/shellcheck conf/*.sh deploy/*.sh .ci/run
	@$(BIN)/hadolint Dockerfile Dockerfile.gpu

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not here: install Python 3.11, or name another by PYTHON=..."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: no venv module: on Debian, apt-get install python3-venv"; exit 2; }

$(VENV)/.installed: $(VENV)/bin/python setup.cfg pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; some minutes)"
	@$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) -c constraints.txt torch
	@grep -v "^torch==" constraints.txt > $(VENV)/constraints.txt
	@$(PIP) -c $(VENV)/constraints.txt -e .
	@$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "adding what tests and checks need"
	@$(PIP) -c $(VENV)/constraints.txt -e '.[dev]'
	@$(COMPILE)
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO_OUT) build site *.egg-info
