//! When requests of a route are sent again.

use super::matching::Fail;
use crate::{
    config::{duration, path::Path},
    istio,
    snapshot::{RetryOn, RetryPolicy},
};

/// Most attempts after the first that are accepted.
const MAX_ATTEMPTS: i64 = 100;

/// Translates `retries`; what cannot be translated is reported.
pub(crate) fn policy(retries: &istio::Retries, path: &Path<'_>, fail: &mut Fail<'_>) -> RetryPolicy {
    let defaults = RetryPolicy::default();
    let attempts = match retries.attempts {
        0 => {
            if retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() {
                let message = "attempts is 0, which means no retries, but a retry policy is given; set attempts";
                fail(&path.key("attempts"), message.to_owned());
            }
            0
        }
        attempts @ 1..=MAX_ATTEMPTS => u32::try_from(attempts).unwrap_or_default(),
        attempts => {
            fail(&path.key("attempts"), format!("attempts must be in the range 0..{MAX_ATTEMPTS}, not {attempts}"));
            0
        }
    };
    let mut time = |name: &str, text: &Option<String>| {
        let text = text.as_deref()?;
        duration::parse(text).map_err(|error| fail(&path.key(name), error)).ok()
    };
    let per_try_timeout = time("perTryTimeout", &retries.per_try_timeout);
    let backoff = time("backoff", &retries.backoff).unwrap_or(defaults.backoff);
    let (on, statuses) = if retries.retry_on.trim().is_empty() {
        (defaults.on, defaults.statuses)
    } else {
        reasons(&retries.retry_on, &path.key("retryOn"), fail)
    };
    let avoid_previous = retries.retry_ignore_previous_hosts.unwrap_or(defaults.avoid_previous);
    RetryPolicy { attempts, on, statuses, per_try_timeout, backoff, avoid_previous }
}

/// `retryOn`: names, and numbers for statuses.
fn reasons(text: &str, path: &Path<'_>, fail: &mut Fail<'_>) -> (RetryOn, Box<[u16]>) {
    let mut on = RetryOn::default();
    let mut statuses = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        if let Some(reason) = RetryOn::parse(part) {
            on = on | reason;
        } else if let Some(status) = part.parse().ok().filter(|status| (100..=599).contains(status)) {
            on = on | RetryOn::RETRIABLE_STATUS_CODES;
            statuses.push(status);
        } else {
            fail(
                path,
                format!("{part:?} is not a reason for a retry, such as 5xx, reset, connect-failure, or a status"),
            );
        }
    }
    (on, statuses.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests")]
    use std::time::Duration;

    use super::*;

    fn compile(retries: &istio::Retries) -> RetryPolicy {
        policy(retries, &Path::Root, &mut |field, message| panic!("{field}: {message}"))
    }

    #[test]
    fn an_empty_policy_switches_retries_off() {
        assert_eq!(compile(&istio::Retries::default()).attempts, 0);
    }

    #[test]
    fn names_and_numbers() {
        let retries = istio::Retries {
            attempts: 3,
            retry_on: "gateway-error, 418,connect-failure,409".to_owned(),
            per_try_timeout: Some("2s".to_owned()),
            retry_ignore_previous_hosts: Some(false),
            ..istio::Retries::default()
        };
        let policy = compile(&retries);
        assert_eq!((policy.attempts, policy.per_try_timeout), (3, Some(Duration::from_secs(2))));
        assert_eq!(&*policy.statuses, [418, 409]);
        assert!(policy.on == RetryOn::GATEWAY_ERROR | RetryOn::CONNECT_FAILURE | RetryOn::RETRIABLE_STATUS_CODES);
        assert!(!policy.avoid_previous);
        let unnamed = istio::Retries { attempts: 1, ..istio::Retries::default() };
        assert_eq!(compile(&unnamed).on, RetryPolicy::default().on);
    }
}
