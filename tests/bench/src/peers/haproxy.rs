//! HAProxy: one process with one thread.

use std::{path::Path, process::Command};

use super::{Doors, Site, first_line, program};
use crate::process::{PROXY_CPU, command};

pub(super) fn version() -> anyhow::Result<String> {
    first_line(&program("haproxy"), "-v")
}

pub(super) fn prepare(site: &Site, doors: &Doors, folder: &Path) -> anyhow::Result<Command> {
    let Site { origin, certificate_and_key, .. } = site;
    let (http_origin, grpc_origin) = (origin.http, origin.grpc);
    let Doors { http, https, grpc, .. } = doors;
    let certificate = certificate_and_key.display();
    let text = format!(
        r#"global
  nbthread 1
  maxconn 12000
  no strict-limits
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout client 3600s
  timeout server 3600s
  timeout connect 10s
  timeout http-keep-alive 3600s
  timeout tunnel 3600s
  option forwardfor
  unique-id-format %[uuid()]
  unique-id-header x-request-id
  http-reuse always
frontend http
  bind 127.0.0.1:{http} backlog 4096
  http-request set-header x-forwarded-proto http
  default_backend origin
frontend https
  bind 127.0.0.1:{https} ssl crt {certificate} alpn h2,http/1.1 backlog 4096
  http-request set-header x-forwarded-proto https
  default_backend origin
frontend grpc
  bind 127.0.0.1:{grpc} proto h2 backlog 4096
  http-request set-header x-forwarded-proto http
  default_backend grpc
backend origin
  server origin {http_origin} pool-max-conn 256
backend grpc
  server origin {grpc_origin} proto h2 pool-max-conn 256
"#
    );
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    let mut command = command(program("haproxy"), PROXY_CPU);
    command.arg("-db").arg("-f").arg(&file);
    Ok(command)
}
