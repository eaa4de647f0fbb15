# The commands of this repository. `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
CLIENTS := tests/clients/install.sh

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## build, start Cistern, and see an import, dedup and export of a real disk
	@scripts/demo.sh

build: ## the release executable, target/release/cistern
	cargo build --release --locked -p cistern

test: ## every test this machine can run; what is missing is skipped with a printed reason
	@scripts/test.sh

test-all: ## every test, nothing skipped: installs the real clients, databases and servers first
	@scripts/test-all.sh

soak: ## long rounds: 1,000 kills, all four worlds, the simulation, 30 minutes of fuzzing a parser
	@scripts/soak.sh

bench: ## Cistern beside restic, borg, kopia and qemu-img in one run; writes docs/benchmarks.md
	@scripts/bench.sh

lint: ## format, clippy, licences
	cargo fmt --all --check
	@find crates -name '*.rs' -not -path '*/target/*' -exec awk 'length > 120 && /^ *\/\// \
	  { print FILENAME ":" FNR ": a comment wider than 120 columns"; bad = 1 } END { exit bad }' {} +
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@scripts/lint-deps.sh

fuzz: ## fuzz every parser for one minute
	@crates/fuzz/run.sh 60

clean: ## what builds and demos left in this folder
	rm -rf target cistern-demo

.PHONY: help demo build test test-all soak bench lint fuzz clean
