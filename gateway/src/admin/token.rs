//! Who may change something: callers that know the token, if there is one.
//!
//! Every request on the admin address that is not a GET, HEAD or OPTIONS counts as a change. On the loopback interface
//! a token is a choice; on any other address changes are refused without one, while everything can still be read, so
//! that probes and scrapers keep working.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Extension, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::BodyExt;
use prometheus::IntCounter;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::{Admin, guard::Ends, reply::Failure, upload};
use crate::{
    plugins::ApiError,
    telemetry::{Telemetry, TelemetryError},
};

/// Bytes of a token. Fewer could be guessed.
const SHORTEST: usize = 16;
const LONGEST: usize = 1024;

/// Who may change something through the admin address.
pub struct Changes {
    rule: Rule,
    /// Attempts of those who may not.
    refused: IntCounter,
}

enum Rule {
    /// Whoever reaches it: programs on this machine.
    Anybody,
    /// Whoever sends what is in this file.
    Token(Arc<Path>),
    /// The address is not loopback and there is no token.
    Nobody,
}

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file.
    #[error("cannot read the token in {}: {source}", .path.display())]
    Unreadable {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its content.
    #[error(
        "{} does not hold a token: it must have {SHORTEST} to {LONGEST} letters, digits or other visible ASCII characters \
         in one line, for example from `openssl rand -hex 32`", .0.display()
    )]
    Unfit(PathBuf),
    /// The counter of refusals.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
}

impl Changes {
    /// For an admin API at `address`.
    ///
    /// # Errors
    /// The file has no token now: better known at the start than with the first upload.
    pub fn new(token_file: Option<PathBuf>, address: IpAddr, telemetry: &Telemetry) -> Result<Self, TokenError> {
        let rule = match token_file {
            Some(path) => {
                read_token(&path)?;
                Rule::Token(path.into())
            }
            None if address.to_canonical().is_loopback() => Rule::Anybody,
            None => {
                tracing::warn!(
                    %address,
                    "the admin address is not on the loopback interface and there is no --admin-token-file: it shows \
                     everything and refuses every change"
                );
                Rule::Nobody
            }
        };
        let name = "gateway_admin_refused_changes_total";
        let refused = IntCounter::new(name, "Changes through the admin API that were refused for want of the token.")
            .map_err(TelemetryError::from)?;
        telemetry.add_collector(Box::new(refused.clone()))?;
        Ok(Self { rule, refused })
    }

    async fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let path = match &self.rule {
            Rule::Anybody => return Ok(()),
            Rule::Nobody => {
                let message = "the admin address is not on the loopback interface, so changes need a token and the \
                               gateway has none; start it with --admin-token-file";
                return Err(ApiError::new(403, "token-not-configured", message));
            }
            Rule::Token(path) => Arc::clone(path),
        };
        // Read every time: changes are rare, the file is small, and a new token counts at once.
        let token = tokio::task::spawn_blocking(move || read_token(&path)).await;
        let token = match token.map_err(|error| error.to_string()) {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => return Err(ApiError::new(500, "token-unreadable", error.to_string())),
            Err(error) => return Err(ApiError::new(500, "internal", error)),
        };
        let wrong = |what| {
            let message = format!("{what}; send `Authorization: Bearer TOKEN`, with the command line --token-file");
            ApiError::new(401, "token-wrong", message).at("authorization")
        };
        let sent = bearer(headers).ok_or_else(|| wrong("changes need the gateway's token"))?;
        // Digests have one length, so that not even the token's length shows in the time.
        let (sent, token) = (Sha256::digest(sent), Sha256::digest(token));
        if bool::from(sent.as_slice().ct_eq(token.as_slice())) { Ok(()) } else { Err(wrong("this is not the token")) }
    }
}

/// What follows `Bearer` in the one Authorization header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (all.next()?.to_str().ok()?, all.next()) else { return None };
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim_matches(' '))
}

/// The token in a file, without the end of its line.
///
/// # Errors
/// It cannot be read, is no regular file, or holds something else.
pub fn read_token(path: &Path) -> Result<String, TokenError> {
    let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // Not blocking, so that a pipe cannot hold us up.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    file.take(LONGEST as u64 + 3).read_to_end(&mut bytes).map_err(unreadable)?;
    let token = bytes.trim_ascii_end();
    let fits = (SHORTEST..=LONGEST).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    let text = fits.then(|| String::from_utf8(token.to_vec()).ok()).flatten();
    text.ok_or_else(|| TokenError::Unfit(path.to_owned()))
}

/// Lets a request pass, or answers 401 or 403.
pub(super) async fn changes_with_token(
    State(admin): State<Arc<Admin>>,
    Extension(ends): Extension<Ends>,
    request: Request,
    next: Next,
) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let changes = &admin.state.changes;
    let Err(error) = changes.check(request.headers()).await else { return next.run(request).await };
    changes.refused.inc();
    tracing::warn!(peer = %ends.peer, method = %request.method(), path = request.uri().path(), code = error.code, "a change was refused");
    // Who is still sending when the connection closes does not see the answer.
    let mut body = request.into_body();
    upload::discard(async { while let Some(Ok(_)) = body.frame().await {} }).await;
    let unauthorized = error.status == 401;
    let mut response = Failure(error).into_response();
    if unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs;

    use super::*;

    #[test]
    fn tokens_are_read_from_regular_files_and_must_be_hard_to_guess() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let (long, longest) = ("t".repeat(LONGEST + 1), "t".repeat(LONGEST));
        for (text, token) in [
            ("0123456789abcdef", Some("0123456789abcdef")),
            ("0123456789abcdef\n", Some("0123456789abcdef")),
            ("0123456789abcdef\r\n", Some("0123456789abcdef")),
            (longest.as_str(), Some(longest.as_str())),
            ("", None),
            ("0123456789abcde\n", None),
            ("0123456789 abcdef", None),
            ("0123456789abcdef\n0123456789abcdef", None),
            ("0123456789abcdéf", None),
            (long.as_str(), None),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_token(&path).ok().as_deref(), token, "{text:?}");
        }
        assert!(matches!(read_token(Path::new("/dev/zero")), Err(TokenError::Unreadable { .. })));
        assert!(matches!(read_token(&folder.path().join("none")), Err(TokenError::Unreadable { .. })));
    }

    #[test]
    fn one_header_of_the_right_scheme() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(of(&["bearer  abc"]).as_deref(), Some("abc"));
        for wrong in [&[][..], &["abc"], &["Basic abc"], &["Bearer"], &["Bearer abc", "Bearer abc"]] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}
