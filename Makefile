# The commands of this project. Each of them installs what it needs and is missing (.ci/setup says what).

.PHONY: help run test lint plugins image strict

help:
	@echo 'make run      build everything, run the gateway on config/quickstart with a sample service'
	@echo 'make test     compile the plugins, run every test'
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

lint:
	.ci/setup
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	@# The half of the SDK that only WebAssembly sees, where rustup's standard library for it is really there.
	if [ "$$(plugins/build --toolchain)" = rustup ]; then \
		cargo clippy --package wasm-sdk --target wasm32-wasip1 -- -D warnings; fi
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps
	if command -v shellcheck; then shellcheck .ci/setup .ci/run .ci/image plugins/build config/quickstart/run \
		tests/strict/install-peers; fi

plugins:
	.ci/setup plugins
	plugins/build

image:
	.ci/image

strict:
	.ci/setup
	envoy=$$(tests/strict/install-peers) && \
		PATH=$$PATH:/usr/sbin cargo run --package gateway-tests --bin strict -- "$$envoy" tests/strict/VERDICTS.md
