# Everything a newcomer needs: `make demo`, `make test`. `make help` lists the rest.
#
# PYTHON       the interpreter to build the environment from (3.11 or newer)
# TORCH_INDEX  another package index to take torch from (a CPU build needs a fraction of the default's 6 GB)
# SYSTEM_TORCH set to 1 to use a torch that is already installed for PYTHON
# DEMO_ARGS    arguments for `zhuzi demo`, such as --overwrite to start anew
# BENCH        arguments of benches/bench_encode.py

PYTHON ?= python3
TORCH_INDEX ?=
SYSTEM_TORCH ?=
DEMO_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
LINUX := $(filter Linux,$(shell uname -s))
RUST := $(shell find rust -type f \( -name '*.rs' -o -name '*.proto' -o -name Cargo.toml \)) Cargo.toml Cargo.lock
# uv does not see a torch that lies outside the environment.
INSTALL := tools/install.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(if $(SYSTEM_TORCH),--pip)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-rust test-python test-oldest test-newest lint format bench results docs instructions fuzz wheel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.built ## Create the environment and build the extension (some minutes the first time)

# An environment of its own, with pip. Run again, this keeps what is there: an interrupted setup resumes, since
# the stamps are written last.
define new_environment
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
@echo "$(@D): fetching the packages$(if $(SYSTEM_TORCH), but torch,$(if $(TORCH_INDEX),\
	and torch from $(TORCH_INDEX),: 3.3 GB and 6.3 GB on the disk, most of it for torch's CUDA build\
	(make TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the far smaller CPU build)))"
$(PYTHON) -m venv $(if $(SYSTEM_TORCH),--system-site-packages) $(@D)
$(@D)/bin/python -m pip install --quiet --upgrade pip
endef

# The dependencies, once; again only when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	$(new_environment)
	$(BIN)/python $(INSTALL) train demo chat serve instruct dev
	@touch $@

# The extension, when Rust has changed.
$(VENV)/.built: $(VENV)/.installed $(RUST)
	@echo "$(@D): building the extension from Rust, some minutes the first time"
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

# Resumes an interrupted demo, or says that it is finished; starts anew if the sources have changed since.
demo: setup ## Run all steps on the built-in sample; writes demo-run/report.html
	@anew=; if [ -z "$(DEMO_ARGS)" ] && [ -e demo-run ] && [ -n "$$(find python rust/core rust/py Cargo.lock \
		\( -name '*.py' -o -name '*.rs' -o -name '*.j2' -o -name '*.json*' -o -name Cargo.lock \) \
		-newer demo-run/.lock 2>&1)" ]; then echo "demo-run: the sources have changed since; starting anew"; anew=--overwrite; fi; \
	set -x; $(BIN)/zhuzi demo $(or $(DEMO_ARGS),--out demo-run) $$anew

test: test-rust test-python ## Run every fast test

test-rust: ## Run the tests of the Rust core
	cargo test --quiet --release -p zhuzi-core

test-python: setup ## Run the tests of the package
	$(BIN)/pytest -q -n 2 --dist loadfile

test-slow: setup ## Run the slow tests as well
	$(BIN)/python $(INSTALL) ray
	$(BIN)/pytest -q -m 'not gpu and not bench'

# The package as it was built for $(VENV); torch and all else in environments of their own, 6 GB each.
test-oldest: setup .venv-oldest/.installed ## Run the training tests with the lowest versions of the dependencies allowed
	$(call borrow,.venv-oldest)
	.venv-oldest/bin/python -m pytest -q tests/training

test-newest: setup .venv-newest/.installed ## Run the training tests with the newest versions of the dependencies allowed
	.venv-newest/bin/python $(INSTALL) --upgrade train demo chat serve dev
	$(call borrow,.venv-newest)
	.venv-newest/bin/python -m pytest -q tests/training

.venv-oldest/.installed: pyproject.toml
	$(new_environment)
	.venv-oldest/bin/python $(INSTALL) --oldest train demo chat serve instruct export
	@touch $@

.venv-newest/.installed:
	$(new_environment)
	@touch $@

borrow = cp -r $(VENV)/lib/python*/site-packages/zhuzi* $(1)/lib/python*/site-packages/

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

bench: setup ## Measure encoding beside installed peers: make bench BENCH="--model M FILE..."
	$(BIN)/python benches/bench_encode.py $(BENCH)

results: ## Make benches/RESULTS.md and docs/speed.svg from benches/results.json
	$(PYTHON) benches/make_results.py

docs: .venv-docs/.installed ## Build the documentation site into site/; needs neither Rust nor torch
	.venv-docs/bin/python tools/site.py

.venv-docs/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python tools/install.py docs
	@touch $@

instructions: ## Count the encoder's instructions per byte (valgrind); fails if they have grown
	cargo bench --quiet -p zhuzi-core --bench instructions

fuzz: ## Fuzz model files and ids for a minute each (cargo-fuzz and a nightly compiler)
	cd rust && cargo +nightly fuzz run --fuzz-dir fuzz model_file -- -max_total_time=60 -max_len=4000
	cd rust && cargo +nightly fuzz run --fuzz-dir fuzz ids -- -max_total_time=60 -max_len=1500

# On Linux against glibc 2.17 (manylinux2014) with zig as the linker, so that it runs on every distribution in use;
# maturin and auditwheel both check that nothing newer is asked for.
wheel: setup ## Build wheel and source distribution into dist/, and check them
	$(BIN)/python $(INSTALL) wheel
	rm -f dist/*.whl dist/*.tar.gz
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/maturin build --release --locked --out dist $(if $(LINUX),--zig --compatibility manylinux2014)
	$(BIN)/maturin sdist --out dist
	$(if $(LINUX),$(BIN)/python tools/check_wheel.py dist)

clean: ## Remove build results, the environments and demo-run
	rm -rf $(VENV) .venv-oldest .venv-newest .venv-docs target dist demo-run site
