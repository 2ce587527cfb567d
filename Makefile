# Two commands do everything on a fresh machine with Python 3.11, pip and make:
#   make demo    the main job, in a terminal, in under a minute
#   make test    every test that takes less than ten minutes
# On Debian 12, as root: make e2e, the same with a real U-Boot, kernel and flash in QEMU (tools/lab/README.md).
# More: make check (format, lint, types, quick tests), make bench, make bench-quick, make requirements, make clean, and
# make demo-real, the demo with a Linux kernel in a FIT image, made from Debian packages (on Debian and Ubuntu).

PYTHON ?= python3
VENV   := .venv
ifeq ($(OS),Windows_NT)
BIN    := $(VENV)/Scripts
else
BIN    := $(VENV)/bin
endif
READY  := $(VENV)/ready
PEERS  := $(VENV)/peers-of-bench
# Debian splits ensurepip off into python3-venv; without it the outer pip installs into the environment.
PIP     = $$($(BIN)/python -m pip --version >/dev/null 2>&1 && echo $(BIN)/python -m pip \
	  || echo $(PYTHON) -m pip --python $(BIN)/python) install --quiet --disable-pip-version-check

.PHONY: demo demo-real test e2e check format bench bench-quick requirements clean size fuzz test-be

demo: $(READY)
	$(BIN)/unbrickd demo $(DEMO_ARGS)

demo-real: $(READY)
	real=$$(tools/real_firmware.sh) && \
	  $(BIN)/unbrickd demo --firmware "$$real/firmware.itb" --config "$$real/config.tar.gz" $(DEMO_ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n auto $(TEST_ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto -m "not slow"

e2e: $(READY)
	$(BIN)/python -m tools.lab
	$(BIN)/python -m pytest -m qemu -n auto --maxschedchunk=1 -o tmp_path_retention_policy=failed tests/qemu $(E2E_ARGS)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The recovery core in C (c/README.md): what it costs; its decoders under a fuzzer; the same bytes on a big-endian machine.
size fuzz test-be: $(READY)
	$(MAKE) -C c $@ PYTHON=$(CURDIR)/$(BIN)/python

# Forty minutes: loopback, links between network namespaces, five hundred devices (Linux, as root). docs/performance.md
# explains them, and names the Debian packages of the peers; without one, that peer is left out.
bench: $(PEERS)
	$(BIN)/python -m bench loopback $(BENCH_ARGS)
	$(BIN)/python -m bench links $(LINKS_ARGS)
	$(BIN)/python -m bench street $(STREET_ARGS)
	$(BIN)/python -m bench street --runs 1 --rate 1000 $(STREET_ARGS)

bench-quick: $(READY)
	$(BIN)/python -m bench links --quick --output build/bench

$(READY): pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(VENV)
	$(PIP) --require-hashes -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(PEERS): $(READY) requirements/bench.txt
	$(PIP) --require-hashes -r requirements/bench.txt
	touch $@

requirements:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --output-file requirements/dev.txt pyproject.toml requirements/dev.in
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --output-file requirements/bench.txt requirements/bench.in

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
