//! What plugins have beside streams: trailers at both ends, metrics, shared data, queues, ticks, the end of a stream.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;
use wasm_sdk::log::Level;
use wasm_sdk::metrics::{Counter, Gauge, Histogram};
use wasm_sdk::testing::{Gateway, Message, get, post, response};
use wasm_sdk::{
    Body, BodyFlow, Error, Finished, Flow, Headers, Plugin, Queue, Reply, Request, Response, Result, shared,
};

/// Counts what passes, and writes down in trailers and logs what it saw.
struct Observer {
    requests: Counter,
    open: Gauge,
    sizes: Histogram,
    lines: Queue,
}

#[derive(serde::Deserialize)]
struct Nothing {}

#[wasm_sdk::plugin]
impl Plugin for Observer {
    type Config = Nothing;
    type Context = usize;

    fn configure(_: Nothing) -> Result<Observer> {
        wasm_sdk::set_tick_period(Duration::from_micros(1_500))?;
        Ok(Observer {
            requests: Counter::new("observer_requests_total")?,
            open: Gauge::new("observer_open")?,
            sizes: Histogram::new("observer_body_bytes")?,
            lines: Queue::register("lines")?,
        })
    }

    fn on_request(&self, request: &mut Request<'_>, _: &mut usize) -> Result<Flow> {
        self.requests.add(1);
        self.open.add(1);
        if let Some(client) = request.property(&["source", "address"])? {
            request.headers().set("x-client", client)?;
        }
        Ok(Flow::Continue)
    }

    fn on_request_body(&self, body: &mut Body<'_>, seen: &mut usize) -> Result<BodyFlow> {
        *seen += body.len();
        Ok(BodyFlow::Continue)
    }

    fn on_request_trailers(&self, trailers: &mut Headers<'_>, seen: &mut usize) -> Result<Flow> {
        if trailers.get("x-refuse")?.is_some() {
            return Ok(Flow::Respond(Reply::new(400)));
        }
        trailers.set("x-seen", seen.to_string())?;
        trailers.remove("x-secret")?;
        Ok(Flow::Continue)
    }

    fn on_response(&self, response: &mut Response<'_>, seen: &mut usize) -> Result<Flow> {
        *seen = 0;
        response.headers().set("x-count", self.requests.value()?.to_string())?;
        Ok(Flow::Continue)
    }

    fn on_response_body(&self, body: &mut Body<'_>, seen: &mut usize) -> Result<BodyFlow> {
        *seen += body.len();
        if body.is_complete() {
            let total = seen.to_string();
            body.trailers().set("x-total", total)?;
        }
        Ok(BodyFlow::Continue)
    }

    fn on_log(&self, stream: &Finished<'_>, seen: &mut usize) -> Result<()> {
        self.open.add(-1);
        self.sizes.observe(*seen as u64);
        let field = |found: Option<wasm_sdk::HeaderValue>| found.map_or("-".to_owned(), |value| value.to_string());
        let line = [
            field(stream.request_headers().get(":path")?),
            field(stream.request_trailers().get("x-seen")?),
            field(stream.response_headers().get(":status")?),
            field(stream.response_trailers().get("x-total")?),
        ];
        self.lines.push(line.join(" "))?;
        shared::update("bytes", |old| {
            let before: usize = old.and_then(|old| std::str::from_utf8(old).ok()?.parse().ok()).unwrap_or(0);
            (before + *seen).to_string().into_bytes()
        })
    }

    fn on_tick(&self) -> Result<()> {
        let bytes = shared::get("bytes")?.ok_or_else(|| Error::new("nothing yet"))?;
        wasm_sdk::info!("{} bytes", String::from_utf8_lossy(&bytes.value));
        Ok(())
    }

    fn on_queue(&self, queue: &Queue) -> Result<()> {
        assert_eq!(*queue, self.lines);
        while let Some(line) = queue.pop()? {
            wasm_sdk::info!("{}", String::from_utf8_lossy(&line));
        }
        Ok(())
    }
}

fn gateway() -> Gateway<Observer> {
    Gateway::start("").unwrap()
}

fn answer() -> Message {
    response(200).chunk("four").chunk("")
}

#[test]
fn trailers_are_read_changed_and_added() {
    let gateway = gateway();
    let request = get("/").chunk("abc").trailer("x-secret", "s").trailer("X-Other", "o");
    let exchange = gateway.exchange(request, answer());
    let upstream = exchange.upstream.unwrap();
    assert_eq!((upstream.trailer_text("x-seen"), upstream.trailer_text("x-other")), (Some("3"), Some("o")));
    assert_eq!(upstream.trailer_text("x-secret"), None);
    assert_eq!(exchange.response.trailer_text("X-Total"), Some("4"), "added at the end of a body without any");
    // A body that has trailers ends with them.
    let exchange = gateway.exchange(get("/"), answer().trailer("grpc-status", "0"));
    assert_eq!(exchange.response.trailer_text("x-total"), Some("4"));
    assert_eq!(exchange.response.trailer_text("grpc-status"), Some("0"));
}

#[test]
fn a_trailers_handler_can_refuse_what_has_not_gone_yet() {
    let exchange = gateway().send(get("/").chunk("abc").trailer("x-refuse", "1"));
    assert!(exchange.upstream.is_none());
    assert_eq!(exchange.response.status(), 400);
}

/// Touches trailers when it must not.
struct Early;

#[wasm_sdk::plugin]
impl Plugin for Early {
    type Config = Nothing;
    type Context = ();

    fn configure(_: Nothing) -> Result<Early> {
        Ok(Early)
    }

    fn on_request_body(&self, body: &mut Body<'_>, _: &mut ()) -> Result<BodyFlow> {
        body.trailers().set("x-early", "1")?;
        Ok(BodyFlow::Continue)
    }
}

#[test]
fn trailers_before_the_end_of_a_body_are_an_error() {
    let gateway = Gateway::<Early>::start("").unwrap();
    let exchange = gateway.send(post("/", "a").chunk("b"));
    assert_eq!(exchange.response.status(), 500);
    assert!(exchange.logs[0].1.starts_with("request body: setting trailer `x-early` failed"), "{:?}", exchange.logs);
    assert_eq!(gateway.send(post("/", "a")).upstream.unwrap().trailer_text("x-early"), Some("1"));
}

#[test]
fn metrics_and_shared_data_are_those_of_all_workers() {
    let workers = [gateway(), gateway()];
    for (index, worker) in workers.iter().enumerate() {
        let exchange = worker.exchange(get("/"), answer());
        assert_eq!(exchange.response.header_text("x-count"), Some((index + 1).to_string().as_str()));
    }
    assert_eq!(workers[0].metric("observer_requests_total"), Some(2));
    assert_eq!(workers[0].metric("observer_open"), Some(0));
    assert_eq!(workers[0].metric("observer_body_bytes"), Some(2), "observations");
    assert_eq!(workers[0].metric("unknown"), None);
    assert_eq!(workers[1].tick(), [(Level::Info, "8 bytes".to_owned())]);
    drop(workers);
    assert_eq!(gateway().tick(), [(Level::Error, "tick: nothing yet".to_owned())], "gone with the last of them");
}

#[test]
fn periods_are_rounded_up() {
    assert_eq!(gateway().tick_period(), Duration::from_millis(2));
}

#[test]
fn the_end_of_a_stream_shows_both_messages_and_a_queue_carries_it_on() {
    let gateway = gateway();
    gateway.exchange(get("/a").chunk("abc").trailer("x", "y"), answer());
    gateway.exchange(get("/b"), response(404));
    let lines: Vec<_> = gateway.run_queues().into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["/a 3 200 4", "/b - 404 -"]);
    assert!(gateway.run_queues().is_empty());
}

#[test]
fn properties_are_those_that_a_test_sets() {
    let gateway = gateway();
    assert_eq!(gateway.send(get("/")).upstream.unwrap().header_text("x-client"), None);
    gateway.set_property("source.address", "192.0.2.1:77");
    assert_eq!(gateway.send(get("/")).upstream.unwrap().header_text("x-client"), Some("192.0.2.1:77"));
}

#[test]
fn a_value_is_replaced_only_if_nobody_was_faster() {
    let _gateway = gateway();
    assert!(shared::get("k").unwrap().is_none());
    assert!(shared::replace("k", None, "1").unwrap());
    assert!(!shared::replace("k", None, "1").unwrap(), "there is one now");
    let read = shared::get("k").unwrap().unwrap();
    shared::set("k", "2").unwrap();
    assert!(!shared::replace("k", Some(&read), "3").unwrap());
    assert_eq!(shared::get("k").unwrap().unwrap().value, b"2");
    // Somebody who always is faster for a while does not lose anything.
    let mut turns = 0;
    shared::update("k", |old| {
        turns += 1;
        if turns < 5 {
            shared::set("k", turns.to_string()).unwrap();
        }
        [old.unwrap(), b"!"].concat()
    })
    .unwrap();
    assert_eq!(shared::get("k").unwrap().unwrap().value, b"4!");
    let problem = shared::update("k", |_| {
        shared::set("k", "x").unwrap();
        Vec::new()
    });
    assert!(problem.unwrap_err().to_string().contains("does not take the value"));
}

#[test]
fn queues_are_found_by_their_name() {
    let _gateway = gateway();
    assert_eq!(Queue::find("", "lines").unwrap(), Some(Queue::register("lines").unwrap()));
    assert_eq!(Queue::find("", "other").unwrap(), None);
    assert_eq!(Queue::register("lines").unwrap().pop().unwrap(), None);
}
