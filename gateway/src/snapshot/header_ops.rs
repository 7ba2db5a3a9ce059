//! Edits of the fields of a head, compiled: `headers.request` and `headers.response` of a VirtualService.
//!
//! Per level `remove` happens first, then `set`, then `add`, each sorted by name (istio.md section 2, item 12).
//! Values are Envoy format strings; the operators that make sense at a gateway are served, an unknown one
//! is a configuration problem.

use std::net::SocketAddr;

use heads::{HeaderList, Key};
use http::{HeaderName, HeaderValue};

/// Edits of the fields of one head, in order.
#[derive(Debug, Default)]
pub struct HeaderOps {
    /// Removed first.
    pub remove: Vec<Key>,
    /// Then written in this order.
    pub write: Vec<HeaderWrite>,
}

/// One `set` or `add`.
#[derive(Debug)]
pub struct HeaderWrite {
    /// The header; `host` stands for `:authority`.
    pub name: Key,
    /// Its value.
    pub value: HeaderTemplate,
    /// `add` keeps what is there, `set` replaces it.
    pub append: bool,
}

/// A header value with operators in it.
#[derive(Debug)]
pub enum HeaderTemplate {
    /// No operator: the value as it is.
    Literal(HeaderValue),
    /// Text and operators.
    Parts(Box<[Part]>),
}

/// A piece of a [`HeaderTemplate`].
#[derive(Debug)]
pub enum Part {
    /// Text as it is.
    Text(Box<str>),
    /// Replaced per request.
    Operator(Operator),
}

/// What an operator stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// Address of the client with port.
    DownstreamRemoteAddress,
    /// Address of the client without port.
    DownstreamRemoteAddressWithoutPort,
    /// Address the client connected to, with port.
    DownstreamLocalAddress,
    /// Address the client connected to, without port.
    DownstreamLocalAddressWithoutPort,
    /// Port the client connected to.
    DownstreamLocalPort,
    /// `HTTP/1.1` or `HTTP/2`.
    Protocol,
    /// `:method`, `:path` or `:authority` of the request.
    RequestPseudo(&'static str),
    /// A header of the map that is being edited: `%REQ(x)%` in request edits, `%RESP(x)%` in response edits.
    Header(Key),
    /// Name of the route.
    RouteName,
    /// Address of the endpoint that was chosen.
    UpstreamHost,
    /// Name of this machine.
    Hostname,
}

/// What operators are filled in with.
#[derive(Debug, Clone, Copy)]
pub struct TemplateContext<'a> {
    /// Address of the client.
    pub remote: SocketAddr,
    /// Address the client connected to.
    pub local: SocketAddr,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// Method of the request.
    pub method: &'a str,
    /// Path and query of the request.
    pub path: &'a str,
    /// Host of the request.
    pub authority: &'a str,
    /// Name of the route.
    pub route_name: &'a str,
    /// Address of the endpoint, if one was chosen.
    pub upstream: Option<SocketAddr>,
    /// Name of this machine.
    pub hostname: &'a str,
}

/// Why a header value cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A `%` that neither starts an operator nor is doubled.
    #[error("a single % starts an operator such as %REQ(x-name)%; write %% for the character")]
    Unterminated,
    /// Not one of ours.
    #[error("unknown operator %{0}%")]
    Unknown(String),
    /// Request headers have left for the upstream when response headers are edited, and the other way round.
    #[error(
        "%{0}% is not available here: request edits can use %REQ(...)%, response edits %RESP(...)% and %REQ(:path)%, %REQ(:method)%, %REQ(:authority)%"
    )]
    WrongSide(String),
    /// Not a legal header value.
    #[error("not a legal header value")]
    Illegal,
}

/// Which head is edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `headers.request`
    Request,
    /// `headers.response`
    Response,
}

impl HeaderOps {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.write.is_empty()
    }

    /// Applies the edits.
    pub fn apply(&self, headers: &mut HeaderList, context: &TemplateContext<'_>) {
        for name in &self.remove {
            headers.remove(name);
        }
        for write in &self.write {
            let Some(value) = write.value.render(headers, context) else {
                continue;
            };
            if write.append {
                headers.append(&write.name, value);
            } else {
                headers.insert(&write.name, value);
            }
        }
    }
}

impl HeaderTemplate {
    /// Compiles a format string.
    pub fn parse(text: &str, side: Side) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(percent) = rest.find('%') {
            let (before, after) = rest.split_at(percent);
            literal.push_str(before);
            let after = after.get(1..).unwrap_or_default();
            if let Some(behind) = after.strip_prefix('%') {
                literal.push('%');
                rest = behind;
                continue;
            }
            let (operator, behind) = after.split_once('%').ok_or(TemplateError::Unterminated)?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Operator(Operator::parse(operator, side)?));
            rest = behind;
        }
        literal.push_str(rest);
        if HeaderValue::from_str(&literal).is_err() {
            return Err(TemplateError::Illegal);
        }
        if parts.is_empty() {
            return HeaderValue::from_str(&literal).map(Self::Literal).map_err(|_| TemplateError::Illegal);
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Self::Parts(parts.into()))
    }

    /// The value for one request; `None` if an operator produced something illegal.
    fn render(&self, headers: &HeaderList, context: &TemplateContext<'_>) -> Option<HeaderValue> {
        let parts = match self {
            Self::Literal(value) => return Some(value.clone()),
            Self::Parts(parts) => parts,
        };
        let mut value = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => value.extend_from_slice(text.as_bytes()),
                Part::Operator(operator) => operator.render(headers, context, &mut value),
            }
        }
        HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()
    }
}

impl Operator {
    fn parse(text: &str, side: Side) -> Result<Self, TemplateError> {
        let unknown = || TemplateError::Unknown(text.to_owned());
        let argument = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        Ok(match text {
            "DOWNSTREAM_REMOTE_ADDRESS" => Self::DownstreamRemoteAddress,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamRemoteAddressWithoutPort,
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::DownstreamLocalAddress,
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::DownstreamLocalAddressWithoutPort,
            "DOWNSTREAM_LOCAL_PORT" => Self::DownstreamLocalPort,
            "PROTOCOL" => Self::Protocol,
            "ROUTE_NAME" => Self::RouteName,
            "UPSTREAM_HOST" => Self::UpstreamHost,
            "HOSTNAME" => Self::Hostname,
            _ => {
                let (name, wanted) = match (argument("REQ"), argument("RESP")) {
                    (Some(name), _) => (name, Side::Request),
                    (None, Some(name)) => (name, Side::Response),
                    (None, None) => return Err(unknown()),
                };
                match (name.to_ascii_lowercase().as_str(), wanted) {
                    (":method", Side::Request) => Self::RequestPseudo(":method"),
                    (":path", Side::Request) => Self::RequestPseudo(":path"),
                    (":authority", Side::Request) => Self::RequestPseudo(":authority"),
                    (name, wanted) => {
                        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unknown())?;
                        if wanted != side {
                            return Err(TemplateError::WrongSide(text.to_owned()));
                        }
                        Self::Header(name.into())
                    }
                }
            }
        })
    }

    /// Appends the value; what is unknown is empty, as in Envoy's header formatter.
    fn render(&self, headers: &HeaderList, context: &TemplateContext<'_>, out: &mut Vec<u8>) {
        let mut text = |value: &str| out.extend_from_slice(value.as_bytes());
        match self {
            Self::DownstreamRemoteAddress => text(&context.remote.to_string()),
            Self::DownstreamRemoteAddressWithoutPort => text(&context.remote.ip().to_string()),
            Self::DownstreamLocalAddress => text(&context.local.to_string()),
            Self::DownstreamLocalAddressWithoutPort => text(&context.local.ip().to_string()),
            Self::DownstreamLocalPort => text(&context.local.port().to_string()),
            Self::Protocol => text(context.protocol),
            Self::RouteName => text(context.route_name),
            Self::Hostname => text(context.hostname),
            Self::UpstreamHost => text(&context.upstream.map(|address| address.to_string()).unwrap_or_default()),
            Self::RequestPseudo(":method") => text(context.method),
            Self::RequestPseudo(":path") => text(context.path),
            Self::RequestPseudo(_) => text(context.authority),
            Self::Header(name) => {
                if let Some(value) = headers.get(name) {
                    out.extend_from_slice(value.as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn context() -> TemplateContext<'static> {
        TemplateContext {
            remote: "192.0.2.7:1234".parse().unwrap(),
            local: "192.0.2.1:8080".parse().unwrap(),
            protocol: "HTTP/1.1",
            method: "GET",
            path: "/a?b",
            authority: "x.com",
            route_name: "r",
            upstream: None,
            hostname: "gw",
        }
    }

    fn write(name: &'static str, value: &str, append: bool) -> HeaderWrite {
        HeaderWrite {
            name: Key::from_static(name),
            value: HeaderTemplate::parse(value, Side::Request).unwrap(),
            append,
        }
    }

    fn values(headers: &HeaderList, name: &'static str) -> Vec<String> {
        headers.get_all(name).map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn remove_comes_before_add() {
        let mut headers = HeaderList::new();
        headers.append("x-a", "old".parse().unwrap());
        headers.append("x-a", "older".parse().unwrap());
        let ops = HeaderOps { remove: vec![Key::from_static("x-a")], write: vec![write("x-a", "new", true)] };
        ops.apply(&mut headers, &context());
        assert_eq!(values(&headers, "x-a"), ["new"]);
    }

    #[test]
    fn set_replaces_and_add_keeps() {
        let mut headers = HeaderList::new();
        headers.append("x-s", "1".parse().unwrap());
        headers.append("x-s", "2".parse().unwrap());
        headers.append("x-a", "1".parse().unwrap());
        let ops = HeaderOps { remove: vec![], write: vec![write("x-s", "new", false), write("x-a", "2", true)] };
        ops.apply(&mut headers, &context());
        assert_eq!(values(&headers, "x-s"), ["new"]);
        assert_eq!(values(&headers, "x-a"), ["1", "2"]);
    }

    #[test]
    fn operators_are_filled_in() {
        let mut headers = HeaderList::new();
        headers.insert("x-in", HeaderValue::from_bytes(b"v\xe9").unwrap());
        let ops = HeaderOps {
            remove: vec![],
            write: vec![
                write("x-1", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", false),
                write("x-2", "100%% of %REQ(:path)% by %PROTOCOL%", false),
                write("x-3", "<%REQ(X-In)%>", false),
                write("x-4", "<%UPSTREAM_HOST%>", false),
            ],
        };
        ops.apply(&mut headers, &context());
        assert_eq!(values(&headers, "x-1"), ["192.0.2.7"]);
        assert_eq!(values(&headers, "x-2"), ["100% of /a?b by HTTP/1.1"]);
        assert_eq!(headers["x-3"].as_bytes(), b"<v\xe9>");
        assert_eq!(values(&headers, "x-4"), ["<>"]);
    }

    #[test]
    fn bad_values_are_told_apart() {
        let error = |text| HeaderTemplate::parse(text, Side::Response).unwrap_err();
        assert_eq!(error("50%"), TemplateError::Unterminated);
        assert_eq!(error("%NOPE%"), TemplateError::Unknown("NOPE".into()));
        assert_eq!(error("%RESP(a b)%"), TemplateError::Unknown("RESP(a b)".into()));
        assert_eq!(error("%REQ(x-a)%"), TemplateError::WrongSide("REQ(x-a)".into()));
        assert_eq!(error("a\nb"), TemplateError::Illegal);
        assert!(HeaderTemplate::parse("%REQ(:path)%", Side::Response).is_ok());
    }
}
