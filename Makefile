# make demo   installs into .venv and runs the main job: a figure and an .h5 in demo/
# make test   all fast tests, ruff and mypy among them
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
ML := $(BIN)/py4dstem-ml
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

.PHONY: demo test test-slow train evaluate evaluate-symmetry benchmark benchmark-lacbed \
	benchmark-lacbed-networks clean

demo: $(INSTALLED)
	$(ML) demo --output demo

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m slow

train: $(INSTALLED)
	$(ML) train disks $(ARGS)

evaluate: $(INSTALLED)
	$(BIN)/python benchmarks/disks.py $(ARGS)

evaluate-symmetry: $(INSTALLED)
	$(BIN)/python benchmarks/symmetry.py $(ARGS)

benchmark: $(INSTALLED_DEV)
	$(BIN)/python benchmarks/bloch.py $(ARGS)

benchmark-lacbed: $(INSTALLED)
	$(BIN)/python benchmarks/lacbed.py $(ARGS)

benchmark-lacbed-networks: $(INSTALLED)
	$(BIN)/python benchmarks/lacbed_networks.py $(ARGS)

clean:
	rm -rf $(VENV) demo build dist

# torch first, alone: the one large download is then not repeated when a later step fails.
$(INSTALLED): pyproject.toml constraints.txt
	$(PY) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e .
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) install -c constraints.txt -e ".[dev]"
	touch $@
