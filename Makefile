# Two commands on a fresh machine (Python and make): `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# The oldest distributed that is supported: the lower bound of pyproject.toml.
OLDEST ?= .venv-oldest
OLDEST_DASK := 2025.11.0
MEETS_DASK := $(wildcard $(foreach what,engine cluster dropin page,tests/end_to_end/test_$(what)*.py))

.PHONY: demo test test-oldest check format bench results believable sim docs screenshot clean

demo: $(STAMP)  ## the main job on this machine, with its picture and table in build/demo
	$(BIN)/dask adaptive demo --output build/demo

test: $(STAMP)  ## every test; ARGS="-k name" for some
	$(BIN)/python -m pytest $(ARGS)

test-oldest: $(OLDEST)/.ready  ## the tests that meet Dask, on the oldest supported one
	$(OLDEST)/bin/python -m pytest $(MEETS_DASK) $(ARGS)

check: $(STAMP)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: $(STAMP)  ## write the format that `check` asks for
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## benchmarks, as ratios against rivals in the same run
	$(BIN)/python -m benchmarks.run --output build/bench $(ARGS)

results: $(STAMP)  ## docs/results.md, about an hour; WORKFLOWS=FOLDER for WfFormat files, ARGS=--quick for minutes
	$(BIN)/python -m benchmarks.results $(if $(WORKFLOWS),--workflows "$(WORKFLOWS)") $(ARGS)

believable: $(STAMP)  ## the same graphs for real and simulated; writes the table into docs/simulator.md
	$(BIN)/python -m benchmarks.believable --docs $(ARGS)

sim: $(STAMP)  ## ten thousand made-up worlds in which everything goes wrong
	$(BIN)/python -m dask_adaptive.sim.fuzz $(ARGS)

docs: $(STAMP)  ## the documentation in build/docs; warnings are errors
	$(BIN)/sphinx-build -E -W --keep-going -q -b html docs build/docs

screenshot: $(STAMP)  ## the page on the dashboard, for the documentation; needs Chromium
	$(BIN)/python -m docs.screenshot docs/images/page.png

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group dev
	touch $(STAMP)

$(OLDEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(OLDEST)/bin/python -m pip install --quiet --editable ".[dashboard,notebook,report]" --group test \
		"dask==$(OLDEST_DASK)" "distributed==$(OLDEST_DASK)"
	touch $(OLDEST)/.ready

clean:  ## remove what was built and the virtual environments
	rm -rf build $(VENV) $(OLDEST)
