//! When a request is sent again.

use std::{ops::BitOr, time::Duration};

/// A route's retry policy (VirtualService `http[].retries`; Envoy's `RetryPolicy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first; 0: none.
    pub attempts: u32,
    /// What is tried again.
    pub on: RetryOn,
    /// Statuses that [`RetryOn::RETRIABLE_STATUS_CODES`] means.
    pub statuses: Box<[u16]>,
    /// Limit for one attempt, from the end of the request to the end of the response. `None`: only the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Base of the randomised exponential pause between attempts; ten times as much is the longest.
    pub backoff: Duration,
    /// Whether endpoints that have been tried are avoided.
    pub avoid_previous: bool,
}

/// Reasons to try again, as a set. Names and meanings are Envoy's (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

macro_rules! reasons {
    ($($position:literal $name:ident $text:literal;)*) => {
        impl RetryOn {
            $(#[doc = concat!("`", $text, "`")]
            pub const $name: Self = Self(1 << $position);)*

            /// All reasons with the names that users write.
            const NAMES: &[(&str, Self)] = &[$(($text, Self::$name)),*];
        }
    };
}

reasons! {
    0 SERVER_ERROR "5xx";
    1 GATEWAY_ERROR "gateway-error";
    2 CONNECT_FAILURE "connect-failure";
    3 RETRIABLE_4XX "retriable-4xx";
    4 REFUSED_STREAM "refused-stream";
    5 RETRIABLE_STATUS_CODES "retriable-status-codes";
    6 RETRIABLE_HEADERS "retriable-headers";
    7 RESET "reset";
    8 RESET_BEFORE_REQUEST "reset-before-request";
    9 RATE_LIMITED "envoy-ratelimited";
    10 HTTP3_POST_CONNECT_FAILURE "http3-post-connect-failure";
    11 CANCELLED "cancelled";
    12 DEADLINE_EXCEEDED "deadline-exceeded";
    13 INTERNAL "internal";
    14 RESOURCE_EXHAUSTED "resource-exhausted";
    15 UNAVAILABLE "unavailable";
}

impl RetryOn {
    /// The reason of that name. `None`: there is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, reason)| *reason)
    }

    /// Whether any of `other`'s reasons is in this set.
    #[must_use]
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The reason that a gRPC status gives; none for those that are never tried again.
    #[must_use]
    pub fn of_grpc_status(status: u16) -> Self {
        match status {
            1 => Self::CANCELLED,
            4 => Self::DEADLINE_EXCEEDED,
            8 => Self::RESOURCE_EXHAUSTED,
            13 => Self::INTERNAL,
            14 => Self::UNAVAILABLE,
            _ => Self::default(),
        }
    }
}

impl BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl RetryPolicy {
    /// Attempts without `retries` in the route.
    pub const DEFAULT_ATTEMPTS: u32 = 2;
    /// Base of the pause without `retries.backoff`.
    pub const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

    /// Never again: `attempts: 0`.
    #[must_use]
    pub fn never() -> Self {
        Self { attempts: 0, ..Self::default() }
    }

    /// Whether a status is one to try again.
    #[must_use]
    pub fn wants_status(&self, status: u16) -> bool {
        let any = |reasons| self.on.intersects(reasons);
        match status {
            502..=504 if any(RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR) => true,
            500..=599 if any(RetryOn::SERVER_ERROR) => true,
            409 if any(RetryOn::RETRIABLE_4XX) => true,
            _ => any(RetryOn::RETRIABLE_STATUS_CODES) && self.statuses.contains(&status),
        }
    }

    /// Whether a request can be wanted back after it has left: only then is a copy kept.
    #[must_use]
    pub fn after_sending(&self, grpc: bool, http2_upstream: bool) -> bool {
        let always = RetryOn::SERVER_ERROR
            | RetryOn::GATEWAY_ERROR
            | RetryOn::RETRIABLE_4XX
            | RetryOn::RESET
            | RetryOn::RATE_LIMITED;
        let of_grpc = RetryOn::CANCELLED
            | RetryOn::DEADLINE_EXCEEDED
            | RetryOn::INTERNAL
            | RetryOn::RESOURCE_EXHAUSTED
            | RetryOn::UNAVAILABLE;
        self.attempts > 0
            && (self.on.intersects(always)
                || (!self.statuses.is_empty() && self.on.intersects(RetryOn::RETRIABLE_STATUS_CODES))
                || (grpc && self.on.intersects(of_grpc))
                || (http2_upstream && self.on.intersects(RetryOn::REFUSED_STREAM)))
    }
}

/// Istio's policy for routes without one (`pilot/pkg/networking/core/route/retry`).
impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: Self::DEFAULT_ATTEMPTS,
            on: RetryOn::CONNECT_FAILURE
                | RetryOn::REFUSED_STREAM
                | RetryOn::UNAVAILABLE
                | RetryOn::CANCELLED
                | RetryOn::RETRIABLE_STATUS_CODES,
            statuses: Box::default(),
            per_try_timeout: None,
            backoff: Self::DEFAULT_BACKOFF,
            avoid_previous: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let policy = |on, statuses: &[u16]| RetryPolicy { on, statuses: statuses.into(), ..RetryPolicy::default() };
        assert!(!RetryPolicy::default().wants_status(503), "a plain 503 is not tried again by default");
        assert!(policy(RetryOn::SERVER_ERROR, &[]).wants_status(500));
        assert!(policy(RetryOn::GATEWAY_ERROR, &[]).wants_status(503));
        assert!(!policy(RetryOn::GATEWAY_ERROR, &[]).wants_status(500));
        assert!(policy(RetryOn::RETRIABLE_4XX, &[]).wants_status(409));
        assert!(!policy(RetryOn::RETRIABLE_4XX, &[]).wants_status(404));
        assert!(policy(RetryOn::RETRIABLE_STATUS_CODES, &[418]).wants_status(418));
        assert!(!policy(RetryOn::RESET, &[418]).wants_status(418));
    }

    #[test]
    fn a_copy_is_kept_only_where_it_can_be_needed() {
        let default = RetryPolicy::default();
        assert!(!default.after_sending(false, false));
        assert!(default.after_sending(true, false), "gRPC: unavailable, cancelled");
        assert!(default.after_sending(false, true), "HTTP/2: refused streams");
        assert!(!RetryPolicy::never().after_sending(true, true));
        let reset = RetryPolicy { on: RetryOn::RESET, ..RetryPolicy::default() };
        assert!(reset.after_sending(false, false));
    }
}
