//! Envoy's response flags: why a response is not simply what an upstream said.

use std::fmt;

/// A set of Envoy's response flags (`envoy/data/accesslog/v3/accesslog.proto`, `ResponseFlags`).
///
/// Displays as the codes in Envoy's order with commas between, `UF,URX`; the empty set is `-`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($position:literal $name:ident $code:literal $long:literal $meaning:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = concat!($meaning, " (`", $code, "`).")]
            pub const $name: Self = Self(1 << $position);)*

            /// All flags with their codes and long names, in Envoy's order.
            const CODES: &[(Self, &str, &str)] = &[$((Self::$name, $code, $long)),*];
        }
    };
}

flags! {
    0 LOCAL_HEALTH_CHECK_FAILED "LH" "FailedLocalHealthCheck" "The gateway's own health check failed";
    1 NO_HEALTHY_UPSTREAM "UH" "NoHealthyUpstream" "The cluster has no healthy endpoint";
    2 UPSTREAM_REQUEST_TIMEOUT "UT" "UpstreamRequestTimeout" "The request ran out of time";
    3 LOCAL_RESET "LR" "LocalReset" "The gateway reset the upstream stream";
    4 UPSTREAM_REMOTE_RESET "UR" "UpstreamRemoteReset" "The upstream reset the stream";
    5 UPSTREAM_CONNECTION_FAILURE "UF" "UpstreamConnectionFailure" "The upstream could not be connected to";
    6 UPSTREAM_CONNECTION_TERMINATION "UC" "UpstreamConnectionTermination" "The upstream closed the connection before the response was complete";
    7 UPSTREAM_OVERFLOW "UO" "UpstreamOverflow" "A circuit breaker of the cluster is open";
    8 NO_ROUTE "NR" "NoRouteFound" "No virtual host or no route matched";
    9 DELAY_INJECTED "DI" "DelayInjected" "A configured fault delayed the request";
    10 FAULT_INJECTED "FI" "FaultInjected" "A configured fault answered";
    11 RATE_LIMITED "RL" "RateLimited" "The local rate limit was exceeded";
    12 UNAUTHORIZED_EXTERNAL_SERVICE "UAEX" "UnauthorizedExternalService" "The external authorizer refused the request";
    13 RATE_LIMIT_SERVICE_ERROR "RLSE" "RateLimitServiceError" "The rate-limit service failed";
    14 DOWNSTREAM_CONNECTION_TERMINATION "DC" "DownstreamConnectionTermination" "The client went away";
    15 UPSTREAM_RETRY_LIMIT_EXCEEDED "URX" "UpstreamRetryLimitExceeded" "All permitted attempts failed";
    16 STREAM_IDLE_TIMEOUT "SI" "StreamIdleTimeout" "Nothing moved for too long";
    17 INVALID_ENVOY_HEADERS "IH" "InvalidEnvoyRequestHeaders" "An x-envoy-* request header is malformed";
    18 DOWNSTREAM_PROTOCOL_ERROR "DPE" "DownstreamProtocolError" "The client broke the protocol";
    19 UPSTREAM_MAX_STREAM_DURATION "UMSDR" "UpstreamMaxStreamDurationReached" "The upstream stream exceeded its longest duration";
    20 RESPONSE_FROM_CACHE "RFCF" "ResponseFromCacheFilter" "The response came from a cache";
    21 NO_FILTER_CONFIG "NFCF" "NoFilterConfigFound" "The configuration of a filter was not there in time";
    22 DURATION_TIMEOUT "DT" "DurationTimeout" "The connection or stream exceeded its longest duration";
    23 UPSTREAM_PROTOCOL_ERROR "UPE" "UpstreamProtocolError" "The upstream broke the protocol";
    24 NO_CLUSTER "NC" "NoClusterFound" "The route's cluster does not exist";
    25 OVERLOAD "OM" "OverloadManagerTerminated" "The gateway sheds load";
    26 DNS_FAILURE "DF" "DnsResolutionFailed" "The upstream's name could not be resolved";
    27 DOWNSTREAM_REMOTE_RESET "DR" "DownstreamRemoteReset" "The client reset the stream";
}

impl ResponseFlags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Adds flags.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no flag is set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as bits, one per flag in Envoy's order from the lowest.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The set with these bits; unknown ones are dropped.
    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits & ((1 << Self::CODES.len()) - 1))
    }

    /// Codes of the flags in the set, in Envoy's order.
    pub(super) fn codes(self) -> impl Iterator<Item = &'static str> {
        Self::CODES.iter().filter(move |(flag, ..)| self.contains(*flag)).map(|(_, code, _)| *code)
    }

    /// Their long names, `UpstreamConnectionFailure`.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        Self::CODES.iter().filter(move |(flag, ..)| self.contains(*flag)).map(|(_, _, name)| *name)
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (position, code) in self.codes().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            f.write_str(code)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseFlags({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_appear_in_envoys_order() {
        let flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        assert_eq!(flags.to_string(), "UF,URX");
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        assert_eq!(ResponseFlags::from_bits(u32::MAX).codes().count(), 28);
        assert_eq!(
            ResponseFlags::from_bits(u32::MAX).to_string(),
            "LH,UH,UT,LR,UR,UF,UC,UO,NR,DI,FI,RL,UAEX,RLSE,DC,URX,SI,IH,DPE,UMSDR,RFCF,NFCF,DT,UPE,NC,OM,DF,DR"
        );
    }

    #[test]
    fn sets_grow_and_are_compared_whole() {
        let mut flags = ResponseFlags::default();
        flags.insert(ResponseFlags::NO_ROUTE);
        assert!(flags.contains(ResponseFlags::NO_ROUTE) && flags.contains(ResponseFlags::NONE));
        assert!(!flags.contains(ResponseFlags::NO_ROUTE | ResponseFlags::NO_CLUSTER));
        assert_eq!(ResponseFlags::from_bits(flags.bits()), flags);
    }
}
