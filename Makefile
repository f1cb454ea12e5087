# Verbs for people; cargo does the work.

PREWASI_HOME ?= $(HOME)/.cache/prewasi
# Outside the checkout: a fresh clone on the same machine builds on what is there.
export CARGO_TARGET_DIR := $(PREWASI_HOME)/target
export PREWASI_HOME
PREFIX ?= /usr/local
CARGO ?= cargo
# Containers need root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")
# Where WasmEdge's library is: Debian's place, save another is named.
export WASMEDGE_INCLUDE_DIR ?= /usr/include
export WASMEDGE_LIB_DIR ?= /usr/lib/$(shell gcc -print-multiarch 2>/dev/null)
# Empty on a machine that does not have it.
WASMEDGE := $(if $(wildcard $(WASMEDGE_INCLUDE_DIR)/wasmedge/wasmedge.h),wasmedge)
# Where LLVM 22.1 is (its bin/llvm-config), for wasmer: what setup-wasmer-llvm has fetched, save another is named.
export LLVM_SYS_221_PREFIX ?= $(PREWASI_HOME)/parts/llvm-22
PROGRAMS := prewasi containerd-shim-wasmtime-v1 oci-tar-builder

.PHONY: help setup setup-wasmedge setup-wasmer-llvm build build-wasmtime build-wamr build-wasmedge build-wasmer build-wasmer-llvm
.PHONY: check test record-calls test-wasmer-llvm test-node test-node-short test-k8s node node-ssh node-stop fuzz demo bench has-llvm
.PHONY: install install-wamr install-wasmedge install-wasmer install-wasmer-llvm clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST)

setup: ## Get what the tests need and this machine lacks
	@test/setup test

setup-wasmedge: ## Install WasmEdge from a newer Debian, which upgrades the C library
	@test/setup wasmedge

setup-wasmer-llvm: ## Fetch LLVM, for the other compiler of wasmer; installs nothing
	@test/setup wasmer-llvm

build: build-wasmtime build-wamr build-wasmer $(WASMEDGE:%=build-%) ## Build all programs in release mode
	@$(if $(WASMEDGE),:,echo "left out: the shim of WasmEdge, which this machine lacks; make setup-wasmedge gets it")

build-wasmtime: ## Build the programs with the default engine, wasmtime
	$(CARGO) build --release --workspace --bins

build-wamr: ## Build the shim of WAMR; wants cmake and libclang
build-wasmedge: ## Build the shim of WasmEdge; wants its library and libclang
build-wasmer: ## Build the shim of wasmer
build-wamr build-wasmedge build-wasmer: build-%:
	$(CARGO) build --release --package prewasi-shim --no-default-features --features $* --bin containerd-shim-$*-v1

# A shim has one compiler, so this takes the place of the shim that build-wasmer makes.
build-wasmer-llvm: has-llvm ## Build the shim of wasmer with LLVM instead of Cranelift
	$(CARGO) build --release --package prewasi-shim --no-default-features --features wasmer-llvm --bin containerd-shim-wasmer-v1

has-llvm:
	@ls $(LLVM_SYS_221_PREFIX)/bin/llvm*config* >/dev/null 2>&1 || { echo "error: no LLVM in $(LLVM_SYS_221_PREFIX)"; \
	    echo "hint: make setup-wasmer-llvm fetches it; or set LLVM_SYS_221_PREFIX to where your own has bin/llvm-config"; exit 1; } >&2

# The engines that are tested.
ENGINES := --features prewasi-shim/wamr,prewasi-shim/wasmer$(WASMEDGE:%=,prewasi-shim/%)
# Always the whole workspace with all its targets and engines: cargo chooses a crate's features by what is built beside it,
# and a different choice would compile the engines once more.
ALL := --workspace --all-targets $(ENGINES)

check: ## Formatting, lints, the crates' edges, the documentation
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy $(ALL) -- -D warnings
	$(CARGO) test -q --workspace $(ENGINES) --test edges
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc -q --workspace $(ENGINES) --no-deps

test: ## Run every test, against real containerd 1.7 and 2.1, as root
	@test/setup test
	$(CARGO) build $(ALL)
	$(ROOT) $(CARGO) test --workspace $(ENGINES) --lib --bins --tests

# CASE=devices::systemd runs the cases whose names contain that.
test-node: ## Run the cases of a node as production has it, a virtual machine: systemd, cgroup v2, AppArmor; CASE=… for some
	@test/setup node
	$(MAKE) build-wasmtime
	$(ROOT) $(CARGO_TARGET_DIR)/release/node test -- $(CASE)

# The programs of the tests: a release build takes longer than the cases.
test-node-short: ## Run those that say most, with the test build's programs; CASE=… for some
	@test/setup node
	$(CARGO) build $(ALL)
	$(ROOT) PREWASI_BIN=$(CARGO_TARGET_DIR)/debug $(CARGO_TARGET_DIR)/debug/node test --short -- $(CASE)

# CASE=updates:: runs the cases whose names contain that.
test-k8s: ## Run the cases of a real Kubernetes, which takes this machine for its node; CASE=… for some
	@test/setup k8s
	$(CARGO) build $(ALL)
	$(ROOT) $(CARGO_TARGET_DIR)/debug/k8s test -- $(CASE)

node: ## Boot such a node to work on, or install the programs there anew; PREWASI_BIN=… names others than the release build's
	@test/setup node
	$(if $(PREWASI_BIN),,$(MAKE) build-wasmtime)
	$(ROOT) $(or $(PREWASI_BIN),$(CARGO_TARGET_DIR)/release)/node boot

node-ssh: ## Open a shell on it
	@$(ROOT) $(or $(PREWASI_BIN),$(CARGO_TARGET_DIR)/release)/node ssh

node-stop: ## Stop it
	@$(ROOT) $(or $(PREWASI_BIN),$(CARGO_TARGET_DIR)/release)/node stop

test-wasmer-llvm: has-llvm ## Test the engine wasmer with LLVM, which make test does not
	$(CARGO) test --package prewasi-engines --no-default-features --features wasmer-llvm --lib --test wasmer

# What each engine calls, over the tests that run guests.
RECORDED := shim/src/pod/launch/guard/recorded.txt
CASES := run:: wasi:: web:: programs:: signals:: streams:: options:: layers:: guard::
record-calls: ## Write anew which system calls the guests of each engine make
	$(CARGO) build $(ALL)
	rm -rf $(PREWASI_HOME)/calls && mkdir -p $(PREWASI_HOME)/calls
	for case in $(CASES); do for engine in containerd-2.1 wamr wasmedge wasmer; do \
	    PREWASI_RECORD_CALLS=$(PREWASI_HOME)/calls $(ROOT) $(CARGO) test -q --workspace $(ENGINES) --test integration -- $$engine::$$case; done; done
	PREWASI_MERGE_CALLS=$(PREWASI_HOME)/calls $(CARGO) test -q --workspace $(ENGINES) --test integration > $(PREWASI_HOME)/calls.txt
	mv $(PREWASI_HOME)/calls.txt $(RECORDED)

# All targets together get about a minute; FUZZ_SECONDS=600 looks longer.
FUZZ_SECONDS ?= 12
fuzz: ## Look for inputs that break what must always hold, where there is a nightly compiler
	@test/setup fuzz
	@test/fuzz/run $(FUZZ_SECONDS)

demo: ## Pack, pre-warm and run a wasm program under a private containerd
	@test/setup demo
	$(CARGO) build --release --workspace --bins
	@test/guests/build $(PREWASI_HOME)/guests
	@PREWASI_BIN=$(CARGO_TARGET_DIR)/release PREWASI_GUESTS=$(PREWASI_HOME)/guests test/demo

bench: ## Measure starts beside runc, compiling beside wasmtime, engines side by side, and more
	@test/setup bench
	$(MAKE) build
	$(ROOT) $(CARGO_TARGET_DIR)/release/bench

install: build-wasmtime ## Install the programs into PREFIX/bin (/usr/local/bin), their manual into PREFIX/share/man
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(PROGRAMS:%=$(CARGO_TARGET_DIR)/release/%) $(DESTDIR)$(PREFIX)/bin
	$(CARGO_TARGET_DIR)/release/prewasi man $(DESTDIR)$(PREFIX)/share/man/man1

install-wamr: ## Install the shim of WAMR as well
install-wasmedge: ## Install the shim of WasmEdge as well
install-wasmer: ## Install the shim of wasmer as well
install-wamr install-wasmedge install-wasmer: install-%: build-%
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(CARGO_TARGET_DIR)/release/containerd-shim-$*-v1 $(DESTDIR)$(PREFIX)/bin

install-wasmer-llvm: build-wasmer-llvm ## Install the shim of wasmer with LLVM instead
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(CARGO_TARGET_DIR)/release/containerd-shim-wasmer-v1 $(DESTDIR)$(PREFIX)/bin

clean: ## Delete everything that was built; what setup has fetched stays
	$(CARGO) clean
