# Two commands matter: `make demo` shows a cluster at work, `make test` checks everything.
# Both start from a fresh Debian or Ubuntu machine that has rustup, and say what they install.

SHELL := /bin/sh
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO ?= cargo
# Where the demo's API server listens.
LISTEN ?= 127.0.0.1:6443

BUILD_PACKAGES := build-essential ca-certificates libprotobuf-dev pkg-config protobuf-compiler
DEMO_PACKAGES := curl iproute2 nftables
TEST_PACKAGES := etcd-client etcd-server iproute2 nftables python3 python3-venv $(if $(shell command -v npm),,nodejs npm)

# Tests that need a network namespace of their own need root; the others run as whoever calls make.
ifneq ($(shell id -u),0)
PRIVILEGED_TESTS = sudo -v && CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='sudo -E' \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='sudo -E' \
	$(CARGO) test --locked --test cloud --test components --test dual_stack --test hello_http --test pod_network --test two_nodes
else
PRIVILEGED_TESTS = true
endif

.PHONY: help demo test check tools bench samples

help:
	@echo 'make demo     build, bring up a cluster, deploy samples/hello-http, stay up until Ctrl-C'
	@echo 'make test     fmt, clippy, all tests, end to end included'
	@echo 'make check    fmt and clippy only'
	@echo 'make tools    fetch what the tests need into target/tools'
	@echo 'make bench    the benchmarks whose results stand in benches/README.md'
	@echo 'make samples  rebuild the samples'"'"' .wasm files'

demo:
	@.ci/packages $(BUILD_PACKAGES) $(DEMO_PACKAGES)
	$(CARGO) build --release --locked
	@samples/demo.sh target/release/coracle $(LISTEN)

check:
	@.ci/packages $(BUILD_PACKAGES)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@# As it is built for users: what only tests switch on is off.
	$(CARGO) clippy --bin coracle --locked -- -D warnings

test: check tools
	$(CARGO) test --workspace --locked
	@$(PRIVILEGED_TESTS)

tools:
	@.ci/packages $(TEST_PACKAGES)
	@python3 tests/harness/tools.py target/tools

bench: tools
	@.ci/packages $(BUILD_PACKAGES)
	$(CARGO) bench --locked -p coracle

samples:
	samples/build.sh
