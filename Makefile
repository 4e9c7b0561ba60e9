# Two commands for newcomers: `make demo`, then `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= 2
export NUTRIDET_HOME ?= .nutridet

.PHONY: demo test torture fuzz sbom audit lint up clean install

demo: install  ## the whole pipeline on generated photos, with the embedded model
	$(BIN)/python -m nutridet_assets.materialize
	@echo
	@echo "Photo, leaderboard and curves: $(NUTRIDET_HOME)/artifacts/tiny/leaderboard/report.html"
	@echo "Asset graph, runs and models in the browser: make up"

up: install  ## Dagster on 127.0.0.1:3000 and MLflow on 127.0.0.1:5000, until Ctrl-C
	exec $(BIN)/nutridet up

test: install  ## every test that needs no GPU; files divided among TEST_WORKERS processes of about 4 GB each
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

torture: install  ## faults at random moments of every verb, and a gateway over capacity; about two hours
	$(BIN)/python -m benchmarks.torture $(TORTURE)

fuzz: install  ## 100,000 bad photos, answers, settings and requests; about ten minutes
	$(BIN)/python -m benchmarks.fuzz --inputs 102000 --seed 0

sbom: install  ## what is installed, as CycloneDX: sbom.json
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --sv 1.6 -o sbom.json $(BIN)/python

audit: install  ## known holes in what is installed; asks the package index
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/frozen.txt
	$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install -q pip-audit
	$(VENV)/audit/bin/pip-audit --no-deps --disable-pip -r $(VENV)/frozen.txt

lint: install  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/installed

# The stamp is written last: an interrupted installation is repeated.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[dev,peers,postgres,ray,s3,k8s]'
	touch $@

clean:  ## everything made here, the environment included
	rm -rf $(VENV) $(NUTRIDET_HOME) .pytest_cache .mypy_cache .ruff_cache
