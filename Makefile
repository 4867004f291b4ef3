# Two commands do everything on a fresh Debian 12 (or newer) machine that has Rust and Node:
#
#   make run     builds the program and makes the first picture
#   make test    runs every check that CI runs
#   make ui      checks the interface of the coming window
#
# Both install what is missing first.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := run

# What the build needs beyond Rust: a C compiler, for the allocator.
PACKAGES := gcc libc6-dev

.PHONY: setup run test ui format starter

setup:
	@missing=""; \
	for package in $(PACKAGES); do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "installing:$$missing"; \
	  sudo=$$(if [ "$$(id -u)" = 0 ]; then echo; else echo sudo; fi); \
	  $$sudo apt-get update -q && $$sudo apt-get install -y -q --no-install-recommends $$missing; \
	fi
	@command -v cargo > /dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }

run: setup
	cargo build --release --locked -p impasto
	target/release/impasto generate \
	  --prompt "a fox on a light blue background" --lora neon=0.8 --lora ink=0.4 --seed 11

test: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --workspace
	scripts/check-dependencies.sh
	@test -z "$$(git status --porcelain 2>/dev/null)" || echo "note: the work tree has changes that are not committed"

# Checks the window's interface, on a double of the program: needs Node.
ui:
	cd ui && npm ci && npm run check && npm run lint && npm test && npm run build

format:
	cargo fmt --all

# Copies the starter model anew: make starter FROM=folder
starter:
	scripts/update-starter.sh "$(FROM)"
