# Everything a newcomer needs: `make demo`, `make test`. `make help` lists the rest.
#
# PYTHON       the interpreter to build the environment from (3.11 or newer)
# TORCH_INDEX  another package index to take torch from (a CPU build is ten times smaller than the default)
# SYSTEM_TORCH set to 1 to use a torch that is already installed for PYTHON
# DEMO_ARGS    arguments for `zhuzi demo`, in place of `--out demo-run --overwrite`
# BENCH        arguments of benches/bench_encode.py

PYTHON ?= python3
TORCH_INDEX ?=
SYSTEM_TORCH ?=
DEMO_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
RUST := $(shell find rust -type f \( -name '*.rs' -o -name '*.proto' -o -name Cargo.toml \)) Cargo.toml Cargo.lock

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-rust test-python lint format bench instructions fuzz wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.built ## Make the environment and build the extension (the first time some minutes)

# The dependencies, once; again only when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(if $(SYSTEM_TORCH),--system-site-packages) $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install --quiet $$($(BIN)/python tools/requirements.py train demo dev)
	touch $@

# The extension, when Rust has changed.
$(VENV)/.built: $(VENV)/.installed $(RUST)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup ## Run the main job on the built-in sample; writes demo-run/report.html
	$(BIN)/zhuzi demo $(or $(DEMO_ARGS),--out demo-run --overwrite)

test: test-rust test-python ## Run every fast test

test-rust: ## Run the tests of the Rust core
	cargo test --quiet --release -p zhuzi-core

test-python: setup ## Run the tests of the package
	$(BIN)/pytest -q

test-slow: setup ## Run the tests that take minutes, too
	$(BIN)/python -m pip install --quiet $$($(BIN)/python tools/requirements.py ray)
	$(BIN)/pytest -q -m 'not gpu and not bench'

lint: setup ## Check format, types and style
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest zhuzi._core --mypy-config-file pyproject.toml

format: setup ## Format all code
	cargo fmt
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: setup ## Measure encoding beside the peers that are installed: make bench BENCH="--model M FILE..."
	$(BIN)/python benches/bench_encode.py $(BENCH)

instructions: ## Count the encoder's instructions a byte (valgrind); fails where they have grown
	cargo bench --quiet -p zhuzi-core --bench instructions

fuzz: ## Fuzz model files and ids for a minute each (cargo-fuzz and a nightly compiler)
	cd rust && cargo +nightly fuzz run --fuzz-dir fuzz model_file -- -max_total_time=60 -max_len=4000
	cd rust && cargo +nightly fuzz run --fuzz-dir fuzz ids -- -max_total_time=60 -max_len=1500

wheel: setup ## Build the wheel into dist/
	$(BIN)/maturin build --release --out dist

clean: ## Remove what was built, the environment included
	rm -rf $(VENV) target dist demo-run
