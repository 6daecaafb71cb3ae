# The house's front door: `make` lists what can be done.
# CARGO_TARGET_DIR is respected everywhere; RUST_BACKTRACE and MIGRATEKIT_* settings reach the tests.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-long fuzz bench bench-tunnel bench-catalog build fmt doc toolchain

TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/release/migratekit

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | \
	  while IFS=$$'\t' read -r name words; do printf '  make %-10s %s\n' "$$name" "$$words"; done

demo: build ## The whole story on this machine: a disk replicated, changed, replicated again, proven equal (DISK=path: a disk of yours)
	@$(BIN) demo $(if $(DISK),--disk "$(DISK)") $(if $(KEEP),--keep "$(KEEP)")

test: toolchain ## Everything: format, lints, tests, doc tests, examples, documentation (installs the peers it needs by apt)
	@scripts/test-suite

test-long: toolchain ## The same tests with ten times the rounds: an hour or more
	@scripts/test-suite --long

fuzz: toolchain ## The fuzz targets for minutes instead of seconds (SECONDS_EACH=600), under libFuzzer where cargo-fuzz is there
	@scripts/fuzz $(or $(SECONDS_EACH),600)

bench: build ## Ours against the peers, interleaved; fails on a miss (ROUNDS=9, CASES=a,b, OUT=file.json)
	@scripts/install-test-peers
	@python3 -B scripts/bench.py --bin "$(BIN)" $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(CASES),--cases $(CASES)) --json "$(or $(OUT),$(TARGET)/bench.json)"
	@$(if $(CASES),,$(MAKE) --no-print-directory bench-tunnel bench-catalog)

bench-tunnel: build ## The tunnel against ssh -L, over long and narrow lines, and what proof costs; fails on a miss (ROUNDS=5, CASES=a,b)
	@scripts/install-test-peers
	@cargo build --release --locked --quiet --package migratekit-core --example line
	@python3 -B scripts/benchtunnel.py --bin "$(BIN)" --line "$(TARGET)/release/examples/line" $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(CASES),--cases $(CASES)) --json "$(TARGET)/bench-tunnel.json"

bench-catalog: toolchain ## Pages of a catalog with 1,000,000 jobs on both databases; fails above 50 ms (about 5 minutes)
	@scripts/install-test-peers
	@cargo run --release --locked --quiet --package migratekit-core --example catalog_scale -- --full

build: toolchain ## The release binary
	@cargo build --release --locked --package migratekit-cli

fmt: ## Formats the code
	@cargo fmt --all

doc: ## The library's documentation, in the target folder
	@RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

toolchain:
	@scripts/need-toolchain
