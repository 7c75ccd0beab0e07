# Every target sets up what it needs first. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo cluster-demo cluster-chaos test containers chaos simulate power check proto docs lock clean

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@$(BIN)/python examples/quickstart/demo.py

# Two at a time, each file's tests by one: much of their time is waiting for real servers.
PYTEST_ARGS ?= -n 2 --dist loadfile
test: setup
	$(BIN)/pytest $(PYTEST_ARGS)

# Random faults from seeds; a failure prints the command that does it again. FOCUS=plane has the real control plane; the other
# foci and SABOTAGE are for the positive controls.
chaos: setup
	PYTHONPATH=tests $(BIN)/python -m chaos --seed $(or $(SEED),1) --schedules $(or $(SCHEDULES),50) \
		$(if $(EVENTS),--events $(EVENTS)) $(if $(FOCUS),--focus $(FOCUS)) $(if $(SABOTAGE),--sabotage $(SABOTAGE)) $(if $(LOG),--log $(LOG))

# The whole control plane in one loop on a virtual clock; a failure prints the command that does it again. TRACE=1 shows all of it.
simulate: setup
	@PYTHONPATH=tests $(BIN)/python -m simulation --seed $(or $(SEED),1) --schedules $(or $(SCHEDULES),1000) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(SABOTAGE),--sabotage $(SABOTAGE)) $(if $(TRACE),--trace) $(if $(LOG),--log $(LOG))

# Three hosts on one machine: a demonstration; and random faults from seeds on three network namespaces (root, iproute2).
cluster-demo: setup
	@PYTHONPATH=tests $(BIN)/python -m cluster.demo

cluster-chaos: setup
	PYTHONPATH=tests $(BIN)/python -m cluster --seed $(or $(SEED),1) --schedules $(or $(SCHEDULES),20) $(if $(LOG),--log $(LOG))

# The image, deploy/compose.yaml and an exported pipeline, built and run on a real Docker engine with Compose; a few minutes.
containers: setup
	PYTHONPATH=tests TEST_CONTAINERS=1 $(BIN)/python -m support.engine $(BIN)/pytest tests/deploy/test_containers.py

# Cut the power of a real file system in the middle of writing; root needed. LAZY=1 is the positive control.
power: setup
	PYTHONPATH=tests $(BIN)/python -m power --seed $(or $(SEED),1) --rounds $(or $(ROUNDS),20) $(if $(LAZY),--lazy)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

proto: setup
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=core --grpc_python_out=core --mypy_out=core --mypy_grpc_out=core \
		$$(cd proto && find . -name '*.proto' | sed 's|^\./||')

# The pages that are written from the code; tests compare them.
docs: setup
	$(BIN)/python -m flowctl_cli.reference > docs/cli.md
	$(BIN)/python -m flowctl.settings_reference > docs/settings.md
	$(BIN)/flowctl schema events > docs/schemas/events.json
	$(BIN)/flowctl schema asyncapi > docs/schemas/asyncapi.json

lock: setup
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --group dev \
		--output-file constraints.txt pyproject.toml

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
