//! What is shed, in stages, as Envoy's overload manager does it: first what costs clients nothing.

/// How far it has come. Each stage includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Nothing is shed.
    Normal,
    /// Every answer ends its connection (`connection: close`, GOAWAY), connections without a request end soon, and
    /// memory that nobody uses goes back to the kernel.
    EndKeepAlive,
    /// New requests are answered 503; clients that make no progress are not waited for.
    RefuseRequests,
    /// New connections are closed at once.
    RefuseConnections,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Normal, Self::EndKeepAlive, Self::RefuseRequests, Self::RefuseConnections];
    /// So many percent below where a stage begins it ends, so that it does not come and go.
    const SLACK: u64 = 3;

    pub(super) fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Normal)
    }

    /// From which part of the limit on, in percent. The rest is for what those who are being served still need, and for
    /// what comes before memory is looked at again.
    fn begins_at(self) -> u64 {
        match self {
            Self::Normal => 0,
            Self::EndKeepAlive => 80,
            Self::RefuseRequests => 85,
            Self::RefuseConnections => 90,
        }
    }

    /// The stage that follows when so many percent of the limit are in use.
    pub(super) fn next(self, percent: u64) -> Self {
        let last = |within: &dyn Fn(Self) -> bool| {
            Self::ALL.iter().copied().rfind(|stage| within(*stage)).unwrap_or(Self::Normal)
        };
        let reached = last(&|stage| stage.begins_at() <= percent);
        let kept = last(&|stage| stage.begins_at() <= percent + Self::SLACK);
        reached.max(self.min(kept))
    }

    pub(super) fn announce(self, before: Self, used: u64, limit: u64) {
        let does = match self {
            Self::Normal => return tracing::info!(used, limit, "memory: nothing is shed any more"),
            Self::EndKeepAlive => "answers end their connections",
            Self::RefuseRequests => "new requests are answered 503",
            Self::RefuseConnections => "new connections are closed at once",
        };
        if self > before {
            tracing::warn!(
                used,
                limit,
                "memory is running out: {does}; raise the limit, or give fewer clients to this gateway"
            );
        } else {
            tracing::info!(used, limit, "memory: still {does}");
        }
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::EndKeepAlive => "end-keep-alive",
            Self::RefuseRequests => "refuse-requests",
            Self::RefuseConnections => "refuse-connections",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_begin_where_they_say_and_end_a_little_below() {
        let path = |from: Stage, percents: &[u64]| -> Vec<u8> {
            let mut stage = from;
            percents
                .iter()
                .map(|percent| {
                    stage = stage.next(*percent);
                    stage as u8
                })
                .collect()
        };
        assert_eq!(path(Stage::Normal, &[0, 79, 80, 84, 85, 89, 90, 100, 1000]), [0, 0, 1, 1, 2, 2, 3, 3, 3]);
        assert_eq!(path(Stage::RefuseConnections, &[90, 87, 86, 82, 81, 77, 76, 0]), [3, 3, 2, 2, 1, 1, 0, 0]);
        assert_eq!(path(Stage::RefuseConnections, &[10]), [0], "all at once");
        assert_eq!(path(Stage::Normal, &[99]), [3], "all at once");
        assert!(Stage::ALL.iter().all(|stage| Stage::from_number(*stage as u8) == *stage));
    }
}
