//! nginx: one process, which is master and worker in one.

use std::{path::Path, process::Command};

use super::{Doors, Site, first_line, program};
use crate::process::{PROXY_CPU, command};

pub(super) fn version() -> anyhow::Result<String> {
    first_line(&program("nginx"), "-v")
}

pub(super) fn prepare(site: &Site, doors: &Doors, folder: &Path) -> anyhow::Result<Command> {
    let Site { origin, certificate, key, .. } = site;
    let (http_origin, grpc_origin) = (origin.http, origin.grpc);
    let Doors { http, https, grpc, .. } = doors;
    let (folder_text, certificate, key) = (folder.display(), certificate.display(), key.display());
    // Buffers: bodies of 1 MB must not go through files, which is what the defaults would do.
    // keepalive_requests: as the others, which close no connection because of a number of requests.
    let text = format!(
        r#"daemon off;
master_process off;
worker_processes 1;
pid {folder_text}/pid;
error_log {folder_text}/error.log warn;
events {{ worker_connections 19000; }}
http {{
  access_log off;
  client_body_temp_path {folder_text}/body;
  proxy_temp_path {folder_text}/proxy;
  fastcgi_temp_path {folder_text}/fastcgi;
  uwsgi_temp_path {folder_text}/uwsgi;
  scgi_temp_path {folder_text}/scgi;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  proxy_max_temp_file_size 0;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream http_origin {{
    server {http_origin};
    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
  }}
  upstream grpc_origin {{
    server {grpc_origin};
    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
  }}
  server {{
    listen 127.0.0.1:{http} backlog=4096;
    listen 127.0.0.1:{https} ssl http2 backlog=4096;
    http2_max_concurrent_streams 128;
    server_name _;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:tls:16m;
    location / {{
      proxy_pass http://http_origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-ID $request_id;
    }}
    location /websocket {{
      proxy_pass http://http_origin;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-ID $request_id;
      proxy_read_timeout 3600s;
      proxy_send_timeout 3600s;
    }}
  }}
  server {{
    listen 127.0.0.1:{grpc} http2 backlog=4096;
    http2_max_concurrent_streams 128;
    server_name _;
    location / {{
      grpc_pass grpc://grpc_origin;
      grpc_set_header Host $host;
      grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      grpc_set_header X-Forwarded-Proto $scheme;
      grpc_set_header X-Request-ID $request_id;
    }}
  }}
}}
"#
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text)?;
    let mut command = command(program("nginx"), PROXY_CPU);
    command.arg("-c").arg(&file).arg("-p").arg(folder).arg("-e").arg(folder.join("error.log"));
    Ok(command)
}
