# The gateway as an image: one binary on a small Debian, not root, on a file system that may be read-only.
#
#   docker build --tag gateway .
#   docker run --read-only --publish 8080:8080 --publish 8443:8443 --volume ./config/quickstart:/etc/gateway:ro gateway
#
# `make image` builds and starts it without a registry.

FROM rust:1.95-bookworm AS build
# Another profile of Cargo.toml, for example `quick`, builds in a fraction of the time.
ARG PROFILE=release
WORKDIR /src
COPY . .
RUN cargo build --locked --profile "$PROFILE" --package gateway --bin gateway \
    && install -D --mode=755 "target/$PROFILE/gateway" /out/gateway \
    && strip --strip-debug /out/gateway \
    && install -d --mode=755 --owner=1337 --group=1337 /out/data

FROM debian:bookworm-slim
# The certificates of public authorities: what TLS to upstreams is verified with unless a DestinationRule says otherwise.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/gateway /usr/local/bin/gateway
# Uploaded plugins; mount a volume here to keep them.
COPY --from=build --chown=1337:1337 /out/data /var/lib/gateway
# The user of Istio's proxies.
USER 1337:1337
# HTTP and HTTPS (80 and 443 of the Service), probes, metrics, merged metrics and probes.
EXPOSE 8080 8443 15021 15090 15020
ENTRYPOINT ["/usr/local/bin/gateway"]
# Resources are read from here, and again when they change.
CMD ["run", "--filename", "/etc/gateway", "--data-dir", "/var/lib/gateway"]
