# Two commands do everything on a fresh Debian 12 (or newer) machine that has Rust and Node:
#
#   make run          builds the program and opens its window; without a display, makes a picture
#   make test         runs every check that CI runs
#
# and some do a part:
#
#   make picture      makes a picture from the command line: needs neither Node nor a webview
#   make ui           checks the window's page, on a double of the program
#   make test-window  drives the real window on a screen that nobody sees
#   make test-arm     runs the kernels' tests on an ARM processor that is emulated
#   make package      builds a .deb with window, command line and starter
#   make bench        times the command line against its peers (an hour, 20 GB of disk; needs Python 3.11)
#   make cuda         builds the command line with NVIDIA cards: fetches NVIDIA's compiler first (105 MB)
#   make cuda-window  builds the window with NVIDIA cards, in the same way
#   make test-cuda    checks that program and its kernels as far as a machine without a card can
#   make pack-gpu     packs what a machine with a card needs to test and time it (see tests/gpu)
#
# All install what is missing first.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := run

# What the command line needs beyond Rust: a C compiler, for the allocator and the database.
PACKAGES := gcc libc6-dev
# What the window needs.
WINDOW_PACKAGES := $(PACKAGES) pkg-config libwebkit2gtk-4.1-dev
# What its test needs: a screen, a driver, a mouse and a window to drag files from; a C++ compiler, for the
# card that is emulated; and what NVIDIA's compiler is fetched with.
TEST_PACKAGES := $(WINDOW_PACKAGES) g++ xvfb webkit2gtk-driver xdotool python3-gi gir1.2-gtk-3.0 python3-venv

# The page is in the program. The same features everywhere, so that nothing is compiled twice.
WINDOW := --features impasto-window/custom-protocol
TARGET = $(shell cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

PEERS := torch diffusers transformers peft openvino safetensors accelerate

.PHONY: bench cuda cuda-window cuda-toolkit test-cuda pack-gpu setup setup-window setup-test run window picture test test-window test-arm package ui format starter

# installed PACKAGE...: installs those that are not there.
define installed
	@missing=""; \
	for package in $(1); do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "installing:$$missing"; \
	  sudo=$$(if [ "$$(id -u)" = 0 ]; then echo; else echo sudo; fi); \
	  $$sudo apt-get update -q && $$sudo apt-get install -y -q --no-install-recommends $$missing; \
	fi
	@command -v cargo > /dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }
endef

setup:
	$(call installed,$(PACKAGES))

setup-window:
	$(call installed,$(WINDOW_PACKAGES))

setup-test:
	$(call installed,$(TEST_PACKAGES))

run:
	@if [ -n "$${DISPLAY:-}$${WAYLAND_DISPLAY:-}" ]; then \
	  $(MAKE) --no-print-directory window; \
	else \
	  echo "There is no display to open the window on, so the command line makes a picture."; \
	  $(MAKE) --no-print-directory picture; \
	fi

window: setup-window ui/dist/index.html
	cargo build --release --locked -p impasto-window $(WINDOW)
	$(TARGET)/release/impasto-studio

picture: setup
	cargo build --release --locked -p impasto
	$(TARGET)/release/impasto generate \
	  --prompt "a fox on a light blue background" --lora neon=0.8 --lora ink=0.4 --seed 11

ARM := aarch64-unknown-linux-gnu
test-arm: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER := aarch64-linux-gnu-gcc
test-arm: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER := qemu-aarch64 -L /usr/aarch64-linux-gnu
test-arm:
	$(call installed,$(PACKAGES) qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
	rustup target add $(ARM)
	IMPASTO_ISA=neon cargo test --locked -p impasto-kernels --target $(ARM)

# The page comes first: the window has it inside. Its test drives the program that `cargo test` built.
test: setup-test ui
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets $(WINDOW) -- -D warnings
	cargo test --locked --workspace $(WINDOW)
	scripts/check-dependencies.sh
	scripts/check-ptx.sh $(TARGET)
	$(MAKE) --no-print-directory drive-window
	@test -z "$$(git status --porcelain 2>/dev/null)" || echo "note: the work tree has changes that are not committed"

test-window: setup-test ui/dist/index.html
	cargo test --locked --workspace $(WINDOW) --test program --no-run
	$(MAKE) --no-print-directory drive-window

.PHONY: drive-window
drive-window:
	IMPASTO_STUDIO=$(TARGET)/debug/impasto-studio node --test tests/window/window.test.mjs

package: setup-window ui/node_modules/.installed
	scripts/package.sh

# Checks the page, on a double of the program: needs Node only.
ui: ui/node_modules/.installed
	cd ui && npm run check && npm run lint && npm test && npm run build

ui/node_modules/.installed: ui/package-lock.json ui/package.json
	@command -v npm > /dev/null || { echo "Node is missing: see https://nodejs.org" >&2; exit 1; }
	cd ui && npm ci --no-audit --no-fund
	@touch $@

ui/dist/index.html: ui/node_modules/.installed ui/index.html ui/vite.config.ts $(shell find ui/src -type f)
	cd ui && npm run build
	@touch $@

format:
	cargo fmt --all
	cd ui && npm run format

# Copies the starter model anew: make starter FROM=folder
starter:
	scripts/update-starter.sh "$(FROM)"

# The peers live in a virtual environment of their own, below the build's folder.
bench: setup
	cargo build --release --locked -p impasto
	cargo build --release --locked -p impasto-engine --example adapters
	test -x $(TARGET)/bench/env/bin/python || python3 -m venv $(TARGET)/bench/env
	$(TARGET)/bench/env/bin/pip install --quiet $(PEERS)
	$(TARGET)/bench/env/bin/python benches/compare.py $(TARGET)/bench --impasto $(TARGET)/release/impasto

# The programs for NVIDIA cards are built apart, so that neither build throws the other's away.
CUDA = $(TARGET)/cuda
cuda-toolkit:
	$(call installed,$(PACKAGES) g++ python3 python3-venv)
	scripts/cuda-toolkit.sh $(CUDA)/toolkit

cuda: cuda-toolkit
	@began=$$(date +%s); \
	cargo build --release --locked -p impasto --features cuda --target-dir $(CUDA); \
	echo "$(CUDA)/release/impasto: built in $$(($$(date +%s) - began)) s"

# The toolkit and the kernels that it compiled are those of the command line.
cuda-window: setup-window cuda-toolkit ui/dist/index.html
	@began=$$(date +%s); \
	cargo build --release --locked -p impasto-window $(WINDOW),impasto-window/cuda --target-dir $(CUDA); \
	echo "$(CUDA)/release/impasto-studio: built in $$(($$(date +%s) - began)) s"

test-cuda: cuda
	cargo clippy --locked -p impasto-cuda --features nvidia --all-targets --target-dir $(CUDA) -- -D warnings
	cargo test --locked -p impasto-cuda --features nvidia --target-dir $(CUDA)
	scripts/check-cuda.sh $(CUDA)/release/impasto

pack-gpu: cuda
	tests/gpu/pack $(CUDA)
