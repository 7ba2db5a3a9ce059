//! The gateway from outside: a folder of YAML, requests over real sockets, what clients, services and operators see.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod access_log;
mod budgets;
mod configuration;
mod crossings;
mod destinations;
mod drain;
mod exhaustion;
mod faults;
mod grpc;
mod headers;
mod hosts;
mod house;
mod http2_floods;
mod lifecycle;
mod limits;
mod names;
mod operation;
mod overload;
mod plugins;
mod protocols;
mod retries;
mod routes;
mod scenarios;
mod slow_clients;
mod strict;
mod strictness;
mod surge;
mod takeover;
mod tcp;
mod tls;
mod topology;
mod upgrades;
mod uploads;
mod upstream_tls;
mod versions;
