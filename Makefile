# Two commands for newcomers: `make demo`, then `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export NUTRIDET_HOME ?= .nutridet

.PHONY: demo test torture lint up clean install

demo: install  ## the whole pipeline on generated photos, with the embedded model
	$(BIN)/python -m nutridet_assets.materialize
	@echo
	@echo "Photo, leaderboard and curves: $(NUTRIDET_HOME)/artifacts/tiny/leaderboard/report.html"
	@echo "Asset graph, runs and models in the browser: make up"

up: install  ## Dagster on 127.0.0.1:3000 and MLflow on 127.0.0.1:5000, until Ctrl-C
	exec $(BIN)/nutridet up

test: install  ## every test that needs no GPU
	$(BIN)/python -m pytest

torture: install  ## faults at random moments of every verb, and a gateway over capacity; about two hours
	$(BIN)/python -m benchmarks.torture $(TORTURE)

lint: install  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/installed

# The stamp is written last: an interrupted installation is repeated.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[dev,peers,postgres,s3]'
	touch $@

clean:  ## everything made here, the environment included
	rm -rf $(VENV) $(NUTRIDET_HOME) .pytest_cache .mypy_cache .ruff_cache
