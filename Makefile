# The two commands are `make quickstart` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := out/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## What each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing on a fresh Debian 12 machine with Rust
	scripts/setup

setup-tests: setup ## Install what only the tests need as well
	scripts/setup --tests

release: setup ## Build the one binary, static
	scripts/release

images: setup ## Build the container images of the demo and the tests
	cargo xtask images

quickstart: release images ## Start a cluster of one node and show a real application on it
	scripts/quickstart

check: ## The loop of a developer: format, lints, tidy, quick tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	cargo xtask tidy
	cargo nextest run --workspace --no-tests=pass

test: setup-tests ## Everything that CI runs
	scripts/test

vm-test: setup-tests ## The tests that need a kernel, on Debian's, in a virtual machine
	cargo xtask vm

bench: release ## Measure; prints ratios and CPU-seconds per operation
	scripts/bench

soak: setup-tests release images ## The same tests with larger counts; results belong into docs/soak.md
	SKIFF_SOAK=20 SKIFF_REQUIRE_CONTAINERD=1 cargo nextest run --workspace --profile soak --cargo-profile soak

.PHONY: help setup setup-tests release images quickstart check test vm-test bench soak
