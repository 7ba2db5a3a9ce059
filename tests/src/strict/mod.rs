//! Strictness: one corpus of requests and answers that are not as they should be, for every HTTP gateway.
//!
//! A [`Case`] is what is sent, byte for byte; what our gateway answers; and what reaches the service behind it. The same
//! cases are sent to our gateway in `cargo test` (`end_to_end::strictness`), and by `make strict` to nginx, HAProxy and
//! Envoy as well, where what they do is written down beside what we do: `tests/strict/VERDICTS.md`.
//!
//! * [`rows`]: every row of the table of faults, and the cases or tests that it is covered by;
//! * `framing` (A), `limits` (B), `http2` and `http2_services` (C), `names` (D), `upgrades` (E), `tls` (F) and `services` (G): the cases;
//! * `certificates`: of the gateways, and of clients that show one;
//! * [`mod@exchange`]: sends a case and tells what came of it;
//! * [`recorder`] and [`arrived`]: the service, which keeps exactly what it gets; `secured`: services behind TLS;
//! * [`peers`]: the other gateways; [`verdicts`]: the comparison.
//!
//! What a client gets is one line of text. Its parts are statuses (`400`), broken-off bodies (`200 cut`), HTTP/2 errors
//! (`RST PROTOCOL_ERROR`, `GOAWAY ENHANCE_YOUR_CALM`), on ports for TLS alerts, `ServerHello` and `refused`, and at the end what became of the connection: `open` (another
//! request on it is answered as it should be), `closed`, or `silent` (nothing more came; the gateway waits).

pub mod arrived;
mod certificates;
pub mod exchange;
mod framing;
mod http2;
mod http2_services;
mod limits;
mod names;
pub mod ours;
pub mod peers;
pub mod recorder;
pub mod rows;
mod secured;
mod services;
mod tls;
mod upgrades;
pub mod verdicts;

pub use certificates::Shown;
pub use exchange::{Cut, Seen, exchange};
pub use ours::Ours;
pub use recorder::{PROBE, Recorder, Service};

use crate::server::Protocol::{self, Http1, Http2};

/// The host of every request that is not about hosts.
pub const HOST: &str = "test.example.dev";

/// Something that is sent, and what must come of it.
#[derive(Clone)]
pub struct Case {
    /// The row of the table of faults: `A-1`.
    pub row: &'static str,
    /// What is sent, in a few words.
    pub what: String,
    /// What the client speaks.
    pub client: Protocol,
    /// Where the client comes in.
    pub door: Door,
    /// What the service behind the gateway speaks: either, or one of them.
    pub upstreams: &'static [Protocol],
    /// What the client does.
    pub steps: Vec<Step>,
    /// What the service does.
    pub service: Service,
    /// What the client gets from us.
    pub answer: String,
    /// The requests that reach the service through us, whole ones.
    pub arrives: Vec<String>,
    /// The headers that are part of `arrives`.
    pub shown: &'static [&'static str],
    /// What the client may get from us as well, where that depends on how bytes happen to come.
    pub or: &'static str,
    /// Whether it is a matter of chance how much of the request reaches the service.
    pub may_arrive: bool,
    /// Why we are not as strict as the strictest, or do it otherwise.
    pub why: &'static str,
}

/// Where a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A port in clear text.
    Clear,
    /// A port for TLS, to which the bytes go as they are.
    Tls,
    /// The same port, to the server that asks for a certificate: a whole handshake, and one `GET /`.
    Mutual(Shown),
}

/// What a client does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes so often, as long as the other side takes them.
    Flood(Vec<u8>, usize),
    /// Waits for a response, interim ones included.
    Wait,
    /// Sends nothing more; the other direction stays open.
    Finish,
}

impl Case {
    /// A client that sends these bytes over HTTP/1.1.
    pub fn http1(row: &'static str, what: impl Into<String>, bytes: impl AsRef<[u8]>) -> Case {
        Case {
            row,
            what: what.into(),
            client: Http1,
            door: Door::Clear,
            upstreams: &[Http1, Http2],
            steps: vec![Step::Send(bytes.as_ref().to_vec())],
            service: Service::Answers,
            answer: "200, open".to_owned(),
            arrives: Vec::new(),
            shown: &[],
            or: "",
            may_arrive: false,
            why: "",
        }
    }

    /// A client that sends these bytes to a port for TLS, and does no handshake of its own.
    pub fn into_tls(row: &'static str, what: impl Into<String>, bytes: impl AsRef<[u8]>) -> Case {
        Case { door: Door::Tls, upstreams: &[Http1], ..Case::http1(row, what, bytes) }
    }

    /// A client that shows this to a server that asks for a certificate.
    pub fn shows(row: &'static str, what: &str, shown: Shown) -> Case {
        let case = Case { door: Door::Mutual(shown), upstreams: &[Http1], ..Case::http1(row, what, "") };
        case.gets("refused")
    }

    /// A client that sends these frames after the preface and empty settings of HTTP/2.
    pub fn http2(row: &'static str, what: impl Into<String>, frames: impl AsRef<[u8]>) -> Case {
        Case { client: Http2, ..Case::http1(row, what, frames) }
    }

    /// A `GET /` over both versions of HTTP, which a service that speaks HTTP/1.1 does not answer as it should.
    pub fn answered(row: &'static str, what: &str, bytes: impl AsRef<[u8]>, end: recorder::End) -> Case {
        let bytes = bytes.as_ref().to_vec();
        let service = Service::Says(std::sync::Arc::new(move |_| bytes.clone()), end);
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        Case { upstreams: &[Http1], service, ..Case::http1(row, what, request) }.reaches(&["GET /"])
    }

    /// Another step.
    pub fn then(mut self, step: Step) -> Case {
        self.steps.push(step);
        self
    }

    /// Sends these bytes after a response has come.
    pub fn after_answer(self, bytes: impl AsRef<[u8]>) -> Case {
        self.then(Step::Wait).then(Step::Send(bytes.as_ref().to_vec()))
    }

    /// What the client gets, if it is not `200, open`.
    pub fn gets(mut self, answer: &str) -> Case {
        answer.clone_into(&mut self.answer);
        self
    }

    /// What the client gets if it is not that.
    pub fn or(mut self, answer: &'static str) -> Case {
        self.or = answer;
        self
    }

    /// The request may have reached the service before it was known what it is.
    pub fn may_arrive(mut self) -> Case {
        self.may_arrive = true;
        self
    }

    /// What reaches the service.
    pub fn reaches(mut self, arrives: &[&str]) -> Case {
        self.arrives = arrives.iter().map(|&request| request.to_owned()).collect();
        self
    }

    /// Headers that are shown of what reaches the service.
    pub fn showing(mut self, headers: &'static [&'static str]) -> Case {
        self.shown = headers;
        self
    }

    /// What the service does.
    pub fn service(mut self, service: Service) -> Case {
        self.service = service;
        self
    }

    /// Only with services that speak this.
    pub fn only(mut self, upstreams: &'static [Protocol]) -> Case {
        self.upstreams = upstreams;
        self
    }

    /// Why we do it otherwise than others.
    pub fn because(mut self, why: &'static str) -> Case {
        self.why = why;
        self
    }

    /// Whether it is about cost: then it only matters that the connection ends, and that the service is not flooded.
    pub fn is_flood(&self) -> bool {
        self.client == Http2 && self.steps.iter().any(|step| matches!(step, Step::Flood(..)))
    }

    /// Whether this is what must come of it.
    pub fn accepts(&self, seen: &Seen) -> bool {
        if self.may_arrive {
            return seen.answer == self.answer || seen.answer == self.or;
        }
        if !self.is_flood() {
            let of = |answer: &str| exchange::summary(answer, &self.arrives);
            return [of(&self.answer), of(self.or)].contains(&seen.text(self));
        }
        // Whoever is still sending may get a reset before he can read why.
        let said = seen.answer.split(", ").filter(|part| part.starts_with("GOAWAY"));
        let told = said.clone().next().is_none() || said.clone().any(|part| self.answer.starts_with(part));
        told && seen.answer.ends_with("closed")
            && seen.arrived.len() <= 1_000
            && seen.arrived.iter().all(|request| request.broken.is_none())
    }

    /// What the client gets and what reaches the service, as [`Seen::text`] has it.
    pub fn expected(&self) -> String {
        exchange::summary(&self.answer, &self.arrives)
    }
}

/// A request over both versions of HTTP: `GET /` with these header lines, which is expected to do the same.
pub(crate) fn both(row: &'static str, what: &str, method: &str, target: &str, fields: &[(&str, &str)]) -> [Case; 2] {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let host = if fields.iter().any(|(name, _)| *name == "host") { String::new() } else { format!("host: {HOST}\r\n") };
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", HOST), (":path", target)];
    let block = crate::http2_frames::header_block(pseudo.into_iter().chain(fields.iter().copied()));
    [
        Case::http1(row, what, format!("{method} {target} HTTP/1.1\r\n{host}{lines}\r\n")),
        Case::http2(row, what, http2::whole(1, &block)),
    ]
}

/// How large the cases are that are about size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So that all of them take seconds.
    Small,
    /// As the table of faults has them, as far as a machine can do that in minutes.
    Full,
}

impl Size {
    fn of(self, small: usize, full: usize) -> usize {
        match self {
            Size::Small => small,
            Size::Full => full,
        }
    }
}

/// The whole corpus, in the order of the table.
pub fn corpus(size: Size) -> Vec<Case> {
    [
        framing::cases(),
        limits::cases(size),
        http2::cases(size),
        http2_services::cases(size),
        names::cases(),
        upgrades::cases(),
        tls::cases(),
        services::cases(),
    ]
    .concat()
}
