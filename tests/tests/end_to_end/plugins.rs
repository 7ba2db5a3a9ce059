//! Plugins from outside: what they do to real requests, and what the gateway does when they fail.

use gateway_tests::client::{RawClient, RawResponse};
use gateway_tests::plugins::module_bytes;

mod attachment;
mod basic_auth;
mod bodies;
mod calls;
mod chain;
mod faults;
mod metadata;
mod observed;
mod pauses;
mod registry;
mod remote;
mod replacement;
mod replies;
mod restart;
mod rewrite_body;
mod rows;
mod services;
mod status;
mod terms;
mod trust;

/// Sends a `GET` with these header lines and reads the response.
async fn get(client: &mut RawClient, path: &str, headers: &str) -> RawResponse {
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}\r\n") };
    client.send(format!("GET {path} HTTP/1.1\r\nhost: test.example.dev\r\n{headers}\r\n")).await.unwrap();
    client.response().await.unwrap()
}

/// With whichever tool chain they were compiled.
#[test]
fn modules_on_the_sdk_say_what_this_gateway_knows() {
    for (name, forgets) in [("add-header", true), ("rewrite-body", false)] {
        let module = module_bytes(name);
        let has = |export: &str| module.windows(export.len()).any(|bytes| bytes == export.as_bytes());
        assert!(has("gateway_small_answers"), "{name}");
        assert_eq!(has("gateway_streams_are_forgotten"), forgets, "{name}");
    }
}
