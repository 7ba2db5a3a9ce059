//! A plugin that uses everything the SDK has beside headers and bodies, so that a test sees it work in a gateway.
//!
//! It answers some paths itself, from whatever instance the request has come to: `/add/KEY` adds one to a shared value and
//! shows it, `/push/ITEM` and `/pop` work on its queue. All other requests pass: trailers are added to what has none and
//! changed where there are some, and at the end a line about both messages goes into the queue, of which `on_queue`
//! counts the items.

use serde::Deserialize;
use std::cell::Cell;
use std::time::Duration;
use wasm_sdk::metrics::Counter;
use wasm_sdk::{Body, BodyFlow, Finished, Flow, HeaderValue, Headers, Plugin, Queue, Reply, Request, Result, shared};

/// `pluginConfig`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Milliseconds to the first tick, and between those after it; 0 for none.
    first_tick: u64,
    later_ticks: u64,
    /// After so many the instance stops them.
    ticks: u32,
}

/// The plugin.
pub struct Observer {
    config: Config,
    ticked: Cell<u32>,
    ticks: Counter,
    told: Counter,
    lines: Queue,
}

#[wasm_sdk::plugin]
impl Plugin for Observer {
    type Config = Config;
    type Context = ();

    fn configure(config: Config) -> Result<Observer> {
        wasm_sdk::set_tick_period(Duration::from_millis(config.first_tick))?;
        Ok(Observer {
            config,
            ticked: Cell::new(0),
            ticks: Counter::new("observer_ticks_total")?,
            told: Counter::new("observer_told_total")?,
            lines: Queue::register("lines")?,
        })
    }

    fn on_request(&self, request: &mut Request<'_>, _: &mut ()) -> Result<Flow> {
        let path = request.path()?.to_string();
        let answer = match path.split('/').collect::<Vec<_>>()[..] {
            ["", "add", key] => {
                shared::update(key, |old| {
                    let old = old.and_then(|old| std::str::from_utf8(old).ok()?.parse().ok());
                    (old.unwrap_or(0_u64) + 1).to_string().into_bytes()
                })?;
                shared::get(key)?.map(|shared| shared.value).unwrap_or_default()
            }
            ["", "push", item] => {
                self.lines.push(item)?;
                Vec::new()
            }
            ["", "pop"] => self.lines.pop()?.unwrap_or_else(|| b"nothing".to_vec()),
            _ => return Ok(Flow::Continue),
        };
        Ok(Flow::Respond(Reply::new(200).body(answer)))
    }

    fn on_request_body(&self, body: &mut Body<'_>, _: &mut ()) -> Result<BodyFlow> {
        end(body)
    }

    fn on_request_trailers(&self, trailers: &mut Headers<'_>, _: &mut ()) -> Result<Flow> {
        change(trailers)
    }

    fn on_response_body(&self, body: &mut Body<'_>, _: &mut ()) -> Result<BodyFlow> {
        end(body)
    }

    fn on_response_trailers(&self, trailers: &mut Headers<'_>, _: &mut ()) -> Result<Flow> {
        change(trailers)
    }

    fn on_log(&self, stream: &Finished<'_>, _: &mut ()) -> Result<()> {
        let text = |value: Option<HeaderValue>| value.map_or("-".to_owned(), |value| value.to_string());
        let path = text(stream.request_headers().get(":path")?);
        if path != "/seen" {
            return Ok(());
        }
        let parts = [
            path,
            text(stream.request_headers().get("x-who")?),
            text(stream.request_trailers().get("x-end")?),
            text(stream.response_headers().get(":status")?),
            text(stream.response_headers().get("x-from")?),
            text(stream.response_trailers().get("x-end")?),
        ];
        self.lines.push(parts.join(" "))?;
        Ok(())
    }

    fn on_tick(&self) -> Result<()> {
        self.ticked.set(self.ticked.get() + 1);
        self.ticks.add(1);
        let stops = self.ticked.get() >= self.config.ticks;
        let next = if stops { 0 } else { self.config.later_ticks };
        wasm_sdk::set_tick_period(Duration::from_millis(next))?;
        Ok(())
    }

    fn on_queue(&self, queue: &Queue) -> Result<()> {
        if *queue == self.lines {
            self.told.add(1);
        }
        Ok(())
    }
}

/// A message without trailers gets some at its end. (One that has some ends with an empty piece of body, too.)
fn end(body: &mut Body<'_>) -> Result<BodyFlow> {
    if body.is_complete() && body.trailers().get("x-end").ok().flatten().is_none() {
        body.trailers().set("x-end", "added")?;
    }
    Ok(BodyFlow::Continue)
}

fn change(trailers: &mut Headers<'_>) -> Result<Flow> {
    trailers.add("x-end", "changed")?;
    trailers.remove("x-secret")?;
    Ok(Flow::Continue)
}
