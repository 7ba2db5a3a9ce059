//! The plugin API over HTTP.

use std::{io, path::Path, time::Duration};

use serde_json::{Map, Value, json};
use ureq::{
    Agent, Body, RequestBuilder,
    http::{Response, StatusCode},
    unversioned::multipart::{Form, Part},
};

use super::Failure;
use crate::admin;

/// How long a whole call may take: more than the gateway itself allows a change.
const CALL: Duration = Duration::from_secs(200);
const CONNECT: Duration = Duration::from_secs(3);
/// Longest answer that is read.
const MAX_ANSWER: u64 = 256 << 20;

/// One gateway.
pub(super) struct Client {
    agent: Agent,
    address: String,
    /// What changes are sent with.
    authorization: Option<String>,
}

/// What is pushed.
pub(super) struct Upload {
    pub(super) module: Option<Vec<u8>>,
    pub(super) settings: Map<String, Value>,
}

impl Client {
    /// A client of the admin API at `address`, `HOST:PORT`.
    pub(super) fn new(address: &str, token_file: Option<&Path>) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!(
                "{address:?} is not HOST:PORT, such as 127.0.0.1:15000; check --admin-address or GATEWAY_ADMIN_ADDRESS"
            ))
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        // What a gateway listens on may be "every address"; it is reached on this machine then.
        let host = match host {
            "0.0.0.0" => "127.0.0.1",
            "[::]" => "[::1]",
            "" => return Err(wrong()),
            host if host.contains(['/', '@', '?', '#', ' ']) => return Err(wrong()),
            host => host,
        };
        let agent = Agent::config_builder()
            // A proxy of the environment is for the world outside, not for this.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(CALL))
            .timeout_connect(Some(CONNECT))
            .build();
        let token = token_file.map(admin::read_token).transpose();
        let token =
            token.map_err(|error| Failure::new(format!("{error}; check --token-file or GATEWAY_ADMIN_TOKEN_FILE")))?;
        let authorization = token.map(|token| format!("Bearer {token}"));
        Ok(Self { agent: agent.into(), address: format!("{host}:{port}"), authorization })
    }

    /// `GET /plugins`
    pub(super) fn list(&self) -> Result<Vec<Value>, Failure> {
        let answer = self.agent.get(self.url("")).call();
        match self.answer(answer)?.1 {
            Value::Object(mut list) => match list.remove("plugins") {
                Some(Value::Array(plugins)) => Ok(plugins),
                _ => Err(self.stranger()),
            },
            _ => Err(self.stranger()),
        }
    }

    /// `GET /plugins/{name}`
    pub(super) fn get(&self, name: &str) -> Result<Value, Failure> {
        let answer = self.agent.get(self.url(name)).call();
        Ok(self.answer(answer)?.1)
    }

    /// `PUT /plugins/{name}`: whether it was created, and the plugin.
    pub(super) fn put(&self, name: &str, upload: Upload) -> Result<(bool, Value), Failure> {
        let request = self.authorized(self.agent.put(self.url(name)));
        let settings = Value::Object(upload.settings);
        let answer = match &upload.module {
            None => request.send_json(&settings),
            Some(module) if settings == json!({}) => request.header("content-type", "application/wasm").send(module),
            Some(module) => {
                let settings = settings.to_string();
                let module = Part::bytes(module).file_name("module.wasm");
                request.send(Form::new().part("module", module).text("settings", &settings))
            }
        };
        let (status, plugin) = self.answer(answer)?;
        Ok((status == StatusCode::CREATED, plugin))
    }

    /// `DELETE /plugins/{name}`
    pub(super) fn delete(&self, name: &str) -> Result<(), Failure> {
        let answer = self.authorized(self.agent.delete(self.url(name))).call();
        self.answer(answer).map(|_| ())
    }

    /// `POST /plugins/{name}/rollback`
    pub(super) fn rollback(&self, name: &str, to: Option<&str>) -> Result<Value, Failure> {
        let request = self.authorized(self.agent.post(format!("{}/rollback", self.url(name))));
        let request = match to {
            Some(to) => request.query("to", to),
            None => request,
        };
        Ok(self.answer(request.send_empty())?.1)
    }

    /// `POST /plugins/{name}/enable` or `disable`
    pub(super) fn enable(&self, name: &str, enabled: bool) -> Result<Value, Failure> {
        let action = if enabled { "enable" } else { "disable" };
        let request = self.authorized(self.agent.post(format!("{}/{action}", self.url(name))));
        Ok(self.answer(request.send_empty())?.1)
    }

    fn authorized<Any>(&self, request: RequestBuilder<Any>) -> RequestBuilder<Any> {
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    fn url(&self, name: &str) -> String {
        if name.is_empty() {
            return format!("http://{}/plugins", self.address);
        }
        let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        format!("http://{}/plugins/{name}", self.address)
    }

    /// The JSON of a success, or what the gateway says is wrong.
    fn answer(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<(StatusCode, Value), Failure> {
        let mut response = answer.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let text = text.map_err(|error| self.unreachable(&error))?;
        if status == StatusCode::NO_CONTENT {
            return Ok((status, Value::Null));
        }
        let value: Value = serde_json::from_slice(&text).map_err(|_| self.stranger())?;
        if status.is_success() {
            return Ok((status, value));
        }
        let error = value.get("error").ok_or_else(|| self.stranger())?;
        let part = |key| error.get(key).and_then(Value::as_str).unwrap_or_default();
        let field = match part("field") {
            "" => String::new(),
            field => format!("{field}: "),
        };
        let message = format!("{field}{} ({})", part("message"), part("code"));
        Err(Failure { object: Some(value), ..Failure::new(message) })
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let refused = match error {
            ureq::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => true,
            _ => false,
        };
        let address = &self.address;
        let advice = if refused {
            "is it running? Start one with `gateway run -f DIR`, or name its admin address with --admin-address or GATEWAY_ADMIN_ADDRESS"
        } else {
            "check with `gateway plugin ls` whether the change took effect, and the gateway's log"
        };
        Failure::new(format!("no answer from a gateway at {address} ({error}); {advice}"))
    }

    fn stranger(&self) -> Failure {
        let address = &self.address;
        Failure::new(format!(
            "what answers at {address} is not a gateway's admin API; check --admin-address or GATEWAY_ADMIN_ADDRESS"
        ))
    }
}
