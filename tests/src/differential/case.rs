//! One case: what is sent, what the service answers, what the plugin is told to do.

use std::fmt::Write as _;
use std::time::Duration;

/// A request and everything about it. Built by chaining.
#[derive(Clone)]
pub struct Case {
    /// Its name, by which the table calls it.
    pub name: String,
    /// The way in: a module, or one of the [`Front`](super::Front)s with more.
    pub plugin: &'static str,
    /// Whether the client speaks HTTP/2.
    pub(super) http2: bool,
    pub(super) method: &'static str,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    /// The pieces of the body; each is sent when the plugin has seen the one before.
    pub(super) pieces: Vec<String>,
    pub(super) chunked: bool,
    pub(super) trailers: Vec<(&'static str, &'static str)>,
    /// What each plugin of the chain does.
    scripts: Vec<String>,
    /// What the service answers.
    pub(super) answer: Answer,
    /// What it answers to gRPC calls of the plugin.
    pub(super) called: Answer,
    /// How long the client waits for an answer before it goes away.
    pub(super) patience: Duration,
    /// Into how many pieces a body is cut is the gateway's business: what the plugin saw of each is left out.
    pub(super) coarse: bool,
}

/// The plugins of the way in `chain`, in its order.
pub(super) const CHAIN: [&str; 3] = ["first", "second", "third"];

/// What a service answers.
#[derive(Clone)]
pub struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) pieces: Vec<String>,
    pub(super) chunked: bool,
    pub(super) trailers: Vec<(&'static str, &'static str)>,
}

impl Default for Answer {
    fn default() -> Answer {
        Answer {
            status: 200,
            headers: Vec::new(),
            pieces: vec!["answer".to_owned()],
            chunked: false,
            trailers: Vec::new(),
        }
    }
}

impl Case {
    /// A `GET` that the plugin does this with.
    pub fn get(name: impl Into<String>, script: &str) -> Case {
        Case {
            name: name.into(),
            plugin: "scripted",
            http2: false,
            method: "GET",
            path: "/path?query=1".to_owned(),
            headers: Vec::new(),
            pieces: Vec::new(),
            chunked: false,
            trailers: Vec::new(),
            scripts: vec![one_line(script)],
            answer: Answer::default(),
            called: Answer::default(),
            patience: Duration::from_secs(5),
            coarse: false,
        }
    }

    /// A `POST` with the body `hello`.
    pub fn post(name: impl Into<String>, script: &str) -> Case {
        Case { method: "POST", pieces: vec!["hello".to_owned()], ..Case::get(name, script) }
    }

    /// Three plugins in a chain, and what each does.
    pub fn in_chain(self, scripts: [&str; 3]) -> Case {
        Case { plugin: "chain", scripts: scripts.map(one_line).to_vec(), ..self }
    }

    /// The client speaks HTTP/2.
    pub fn over_http2(self) -> Case {
        Case { http2: true, ..self }
    }

    /// All of what the service answers.
    pub fn answer_as(self, answer: Answer) -> Case {
        Case { answer, ..self }
    }

    /// What the service answers to gRPC calls of the plugin.
    pub fn called(self, called: Answer) -> Case {
        Case { called, ..self }
    }

    /// Another module, or other way in.
    pub fn in_plugin(self, plugin: &'static str) -> Case {
        Case { plugin, ..self }
    }

    /// Another path.
    pub fn path(self, path: &str) -> Case {
        Case { path: path.to_owned(), ..self }
    }

    /// One more header.
    pub fn header(mut self, name: &str, value: &str) -> Case {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body of this text, with its length.
    pub fn body(self, text: &str) -> Case {
        Case { pieces: vec![text.to_owned()], chunked: false, ..self }
    }

    /// A body in these chunks.
    pub fn chunks(self, chunks: &[&str]) -> Case {
        Case { pieces: chunks.iter().map(|chunk| (*chunk).to_owned()).collect(), chunked: true, ..self }
    }

    /// With trailers; the body must be in chunks.
    pub fn trailers(self, trailers: &[(&'static str, &'static str)]) -> Case {
        Case { trailers: trailers.to_vec(), ..self }
    }

    /// The service answers with this status and body, with its length.
    pub fn answer(mut self, status: u16, body: &str) -> Case {
        self.answer.status = status;
        self.answer.pieces = if body.is_empty() { Vec::new() } else { vec![body.to_owned()] };
        self
    }

    /// The service's answer has this header, too.
    pub fn answer_header(mut self, name: &'static str, value: &'static str) -> Case {
        self.answer.headers.push((name, value));
        self
    }

    /// The service's answer comes in these chunks.
    pub fn answer_chunks(mut self, chunks: &[&str]) -> Case {
        self.answer.pieces = chunks.iter().map(|chunk| (*chunk).to_owned()).collect();
        self.answer.chunked = true;
        self
    }

    /// The service's answer has trailers; it must come in chunks.
    pub fn answer_trailers(mut self, trailers: &[(&'static str, &'static str)]) -> Case {
        self.answer.trailers = trailers.to_vec();
        self
    }

    /// Long bodies come in pieces; what the plugin saw of each is not compared.
    pub fn coarse(self) -> Case {
        Case { coarse: true, ..self }
    }

    /// No answer is expected: the client goes away soon.
    pub fn hangs(self) -> Case {
        Case { patience: Duration::from_millis(300), ..self }
    }

    /// What the plugins of the chain are called that can be asked what they saw; one alone needs no name.
    pub(super) fn scripted(&self) -> &'static [&'static str] {
        match self.plugin {
            "chain" => &CHAIN,
            plugin if plugin.starts_with("scripted") => &[""],
            _ => &[],
        }
    }

    /// Its headers, without those that frame the body.
    pub(super) fn fields(&self) -> Vec<(String, String)> {
        let mut fields = vec![("x-case".to_owned(), self.name.clone())];
        for (script, name) in self.scripts.iter().zip(CHAIN).filter(|(script, _)| !script.is_empty()) {
            let name = if self.scripts.len() > 1 { format!("x-script-{name}") } else { "x-script".to_owned() };
            fields.push((name, script.clone()));
        }
        fields.extend(self.headers.iter().cloned());
        fields
    }

    /// The head of the request.
    pub(super) fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: test.example.dev\r\n", self.method, self.path);
        for (name, value) in &self.fields() {
            line(&mut head, name, value);
        }
        announcement(&mut head, &self.trailers);
        if !self.answer.trailers.is_empty() {
            line(&mut head, "te", "trailers");
        }
        framing(&mut head, &self.pieces, self.chunked, self.method == "GET");
        head
    }

    /// A piece of its body as it is sent.
    pub(super) fn piece(&self, piece: &str) -> String {
        if self.chunked { chunk(piece) } else { piece.to_owned() }
    }

    /// What ends the body.
    pub(super) fn end(&self) -> String {
        if self.chunked { last_chunk(&self.trailers) } else { String::new() }
    }
}

impl Answer {
    /// One in gRPC: these messages, then this status.
    pub fn grpc(messages: &[&str], status: &'static str) -> Answer {
        Answer {
            status: 200,
            headers: vec![("content-type", "application/grpc"), ("x-head", "there")],
            pieces: messages.iter().map(|message| framed(message)).collect(),
            chunked: true,
            trailers: vec![("grpc-status", status), ("grpc-message", "said so"), ("x-end", "there")],
        }
    }

    /// One in gRPC that has its status in the head, and nothing else.
    pub fn grpc_head(status: &'static str) -> Answer {
        let headers = vec![("content-type", "application/grpc"), ("grpc-status", status), ("grpc-message", "said so")];
        Answer { headers, pieces: Vec::new(), ..Answer::default() }
    }

    /// One with this status and nothing else.
    pub fn of(status: u16) -> Answer {
        Answer { status, pieces: Vec::new(), ..Answer::default() }
    }

    /// The head of the answer.
    pub(super) fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for (name, value) in &self.headers {
            line(&mut head, name, value);
        }
        announcement(&mut head, &self.trailers);
        framing(&mut head, &self.pieces, self.chunked, false);
        head
    }

    /// A piece of its body as it is sent.
    pub(super) fn piece(&self, piece: &str) -> String {
        if self.chunked { chunk(piece) } else { piece.to_owned() }
    }

    /// What ends the body.
    pub(super) fn end(&self) -> String {
        if self.chunked { last_chunk(&self.trailers) } else { String::new() }
    }
}

/// A message of gRPC, of less than 128 bytes.
pub(super) fn framed(message: &str) -> String {
    format!("\0\0\0\0{}{message}", char::from(message.len() as u8))
}

fn one_line(script: &str) -> String {
    let lines: Vec<_> = script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" | ")
}

fn line(head: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = write!(head, "{name}: {value}\r\n");
}

fn announcement(head: &mut String, trailers: &[(&str, &str)]) {
    if !trailers.is_empty() {
        line(head, "trailer", &trailers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
    }
}

fn framing(head: &mut String, pieces: &[String], chunked: bool, may_have_none: bool) {
    if chunked {
        line(head, "transfer-encoding", "chunked");
    } else if !(pieces.is_empty() && may_have_none) {
        line(head, "content-length", &pieces.iter().map(String::len).sum::<usize>().to_string());
    }
    head.push_str("\r\n");
}

fn chunk(piece: &str) -> String {
    format!("{:x}\r\n{piece}\r\n", piece.len())
}

fn last_chunk(trailers: &[(&str, &str)]) -> String {
    let trailers: String = trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("0\r\n{trailers}\r\n")
}
