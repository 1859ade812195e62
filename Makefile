# The gate and the demo. They need Python 3.11 or newer, pip and make; everything else is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

# The major releases of redis-py between the lowest (make lowest) and the newest (make tests): they handle timeouts
# differently.
CLIENTS := redis-py-6 redis-py-7

# The tests that use third-party packages: their result depends on the installed versions.
ADAPTING := tests/unit tests/property/test_config.py \
	$(addprefix tests/integration/test_,smoke.py transport.py channels.py channels_runworker.py)

.PHONY: test demo venv format clean drills lint types imports tests docs wheel lowest clients $(CLIENTS)

test: lint types imports tests docs wheel lowest clients

# By default the demo uses the IPC layer, which needs no server. LAYER=redis or a REDIS_URL selects another layer.
demo: .venv/.demo$(if $(filter-out ipc,$(LAYER) $(if $(LAYER),,$(REDIS_URL))),-redis)
	$(BIN)/python docs/examples/chat/demo.py

venv: .venv/.dev

format: .venv/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# How often each drill is done with each kind of server.
DRILLS ?= 3

drills: .venv/.dev
	CHANNEL_LAYER_DRILLS=$(DRILLS) $(PYTEST) tests/drills

clean:
	rm -rf .venv .venv-lowest build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests docs -name __pycache__ -prune -exec rm -rf {} +

# --- the parts of the gate

lint: .venv/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: .venv/.dev
	$(BIN)/mypy
	$(BIN)/pyright

imports: .venv/.dev
	$(BIN)/lint-imports

tests: .venv/.dev
	$(PYTEST) tests --ignore=tests/packaging --numprocesses=3 --dist=worksteal

docs: .venv/.dev
	$(PYTEST) docs README.md

wheel: .venv/.dev
	$(PYTEST) tests/packaging

lowest: .venv-lowest/.stamp
	.venv-lowest/bin/python -m pytest $(ADAPTING) -m "not slow"

clients: $(CLIENTS)

$(CLIENTS): %: .venv/%
	PYTHONPATH=$(CURDIR)/$< $(PYTEST) tests/integration/test_smoke.py

# --- environments

# Without ensurepip, which Debian's python3 lacks: the pip of $(PYTHON) installs pip into the new environment.
.venv/bin/pip:
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python .venv/bin/python install --quiet 'pip>=25.1'

.venv/.demo: pyproject.toml | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --editable . --group demo
	touch $@

.venv/.demo-redis: pyproject.toml | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --editable . --group demo-redis
	touch $@ .venv/.demo

.venv/.dev: pyproject.toml | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@ .venv/.demo .venv/.demo-redis

.venv/redis-py-%: pyproject.toml | .venv/.dev
	$(BIN)/python -m pip install --quiet --upgrade --target $@ 'redis~=$*.0'
	touch $@

.venv-lowest/.stamp: pyproject.toml tests/packaging/lowest.txt | .venv/.dev
	$(PYTHON) -m venv --clear --without-pip .venv-lowest
	$(BIN)/python -m pip --python .venv-lowest/bin/python install --quiet --editable . --group test \
		--constraint tests/packaging/lowest.txt
	touch $@
