# The commands of this project. Each of them installs what it needs and is missing (.ci/setup says what).

# How long `make soak` takes.
MINUTES ?= 10

.PHONY: help run test bench conformance overload soak strict lint plugins image

help:
	@echo 'make run      build everything, run the gateway on config/quickstart with a sample service'
	@echo 'make test     compile the plugins, run every test'
	@echo 'make soak     run a gateway under traffic, faults and changes for MINUTES=10, and see what is left afterwards'
	@echo 'make bench    measure the gateway beside nginx, HAProxy and Envoy (ONLY=small-get,tls-small ROUNDS=5 for a part)'
	@echo 'make conformance  run tools that others wrote (h2spec, testssl.sh, …) against the gateway'
	@echo 'make overload a minute of three times what the gateway can serve (part of make test: five seconds)'
	@echo 'make lint     formatting, clippy, documentation, shell scripts; warnings are errors'
	@echo 'make plugins  compile plugins/* to target/plugins/NAME.wasm'
	@echo 'make strict   send what is not as it should be to nginx, HAProxy, Envoy and us: tests/strict/VERDICTS.md'
	@echo 'make image    build the image of the Dockerfile and start it once (as root, with buildah)'

run:
	@config/quickstart/run

test:
	.ci/setup
	plugins/build
	cargo test --workspace

bench:
	.ci/setup
	tests/bench/setup
	plugins/build add-header host-calls rewrite-body
	cargo build --release --package gateway --package gateway-bench
	envoy=$$(tests/strict/install-peers) && target/release/gateway-bench --envoy "$$envoy" \
		$(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(BASELINE),--baseline $(BASELINE))

conformance:
	.ci/setup
	tests/conformance/run

overload:
	.ci/setup
	OVERLOAD_SECONDS=60 cargo test --package gateway-tests --test end_to_end surge:: -- --nocapture

soak:
	.ci/setup
	plugins/build
	cargo build --profile quick --package gateway --package gateway-tests --bin gateway --bin soak
	$${CARGO_TARGET_DIR:-target}/quick/soak --minutes $(MINUTES)

lint:
	.ci/setup
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	@# The half of the SDK that only WebAssembly sees, where rustup's standard library for it is really there.
	if [ "$$(plugins/build --toolchain)" = rustup ]; then \
		cargo clippy --package wasm-sdk --target wasm32-wasip1 -- -D warnings; fi
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps
	if command -v shellcheck; then shellcheck .ci/setup .ci/run .ci/image plugins/build config/quickstart/run \
		tests/bench/setup tests/conformance/install tests/conformance/run tests/fuzz/run tests/fuzz/rustc tests/strict/install-peers; fi

plugins:
	.ci/setup plugins
	plugins/build

image:
	.ci/image

strict:
	.ci/setup
	envoy=$$(tests/strict/install-peers) && \
		PATH=$$PATH:/usr/sbin cargo run --package gateway-tests --bin strict -- "$$envoy" tests/strict/VERDICTS.md
