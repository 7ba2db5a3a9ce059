//! Choosing an endpoint, by weight.

use std::{cell::Cell, rc::Rc};

use super::{Endpoint, RequestBody};
use crate::snapshot::Balance;

/// The endpoints of a cluster in the order of the configuration, with what choosing needs.
pub(super) struct Endpoints<B: RequestBody> {
    list: Vec<Rc<Endpoint<B>>>,
    /// Sums of the weights up to each endpoint; empty if all weights are the same.
    sums: Vec<u64>,
    /// Sum of all weights; their number if they are all the same.
    total: u64,
    /// How far round robin goes on the scale of the weights each time. It has no divisor in common with the total, so
    /// each endpoint gets its exact share; and it is large, so shares are spread evenly.
    step: u64,
    turn: Cell<u64>,
}

impl<B: RequestBody> Endpoints<B> {
    pub(super) fn new(list: Vec<Rc<Endpoint<B>>>) -> Self {
        let first = list.first().map(|endpoint| endpoint.weight());
        let same = list.iter().all(|endpoint| Some(endpoint.weight()) == first);
        let mut total = 0;
        let sums: Vec<u64> = if same {
            total = list.len() as u64;
            Vec::new()
        } else {
            let add = |endpoint: &Rc<Endpoint<B>>| {
                total += u64::from(endpoint.weight());
                total
            };
            list.iter().map(add).collect()
        };
        let total = total.max(1);
        let step = if same { 1 } else { even_step(total) };
        // Workers, and successive configurations, do not all begin with the first endpoint.
        Self { list, sums, total, step, turn: Cell::new(fastrand::u64(..total)) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Endpoint<B>>> {
        self.list.iter()
    }

    /// Chooses; `None` if there is no endpoint.
    pub(super) fn pick(&self, balance: Balance) -> Option<&Rc<Endpoint<B>>> {
        if let [] | [_] = self.list.as_slice() {
            return self.list.first();
        }
        match balance {
            Balance::Random => self.draw(),
            Balance::RoundRobin => {
                let ticket = self.turn.get();
                self.turn.set((ticket + self.step) % self.total);
                self.at(ticket)
            }
            Balance::LeastRequest => {
                let (one, two) = (self.draw()?, self.draw()?);
                Some(if load(two) < load(one) { two } else { one })
            }
        }
    }

    fn draw(&self) -> Option<&Rc<Endpoint<B>>> {
        self.at(fastrand::u64(..self.total))
    }

    /// The endpoint at a place on the scale of the weights.
    fn at(&self, ticket: u64) -> Option<&Rc<Endpoint<B>>> {
        let position = match self.sums.as_slice() {
            [] => usize::try_from(ticket).ok()?,
            sums => sums.partition_point(|sum| *sum <= ticket),
        };
        self.list.get(position)
    }
}

/// Requests for the weight, with the one to come.
fn load<B: RequestBody>(endpoint: &Endpoint<B>) -> u64 {
    (u64::from(endpoint.active()) + 1) * u64::from(u32::MAX) / u64::from(endpoint.weight())
}

/// A step of about the golden section of `total` that has no divisor in common with it.
fn even_step(total: u64) -> u64 {
    let mut step = (u128::from(total) * 618 / 1000) as u64;
    while step > 1 && gcd(step, total) != 1 {
        step -= 1;
    }
    step.max(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{
        collections::BTreeMap,
        pin::Pin,
        task::{Context, Poll},
    };

    use super::*;
    use crate::clock::Clock;

    /// A body that nobody sends.
    #[derive(Default)]
    struct Body;

    impl http_body::Body for Body {
        type Data = bytes::Bytes;
        type Error = crate::upstream::BodyError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
            Poll::Ready(None)
        }
    }

    impl crate::http1::sending::Piped for Body {}

    impl RequestBody for Body {}

    fn endpoints(weights: &[u32]) -> Endpoints<Body> {
        let endpoint =
            |(at, weight): (u16, &u32)| Endpoint::new(([127, 0, 0, 1], at).into(), *weight, Clock::default());
        Endpoints::new((0..).zip(weights).map(endpoint).collect())
    }

    fn picks(weights: &[u32], balance: Balance, times: usize) -> BTreeMap<u16, usize> {
        let endpoints = endpoints(weights);
        let mut counts = BTreeMap::new();
        for _ in 0..times {
            *counts.entry(endpoints.pick(balance).unwrap().address().port()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn round_robin_gives_exact_shares() {
        for weights in [&[1, 1, 1][..], &[7, 7], &[5, 1, 1], &[1, 2, 3, 4], &[100, 1]] {
            let all_same = weights.iter().all(|weight| weight == weights.first().unwrap());
            let share = |weight: u32| if all_same { 1 } else { weight as usize };
            let total: usize = weights.iter().map(|weight| share(*weight)).sum();
            let counts = picks(weights, Balance::RoundRobin, total * 3);
            let expected = (0..).zip(weights).map(|(at, weight)| (at, share(*weight) * 3)).collect();
            assert_eq!(counts, expected, "{weights:?}");
        }
        let order = endpoints(&[1, 1, 1]);
        let ports: Vec<_> = (0..6).map(|_| order.pick(Balance::RoundRobin).unwrap().address().port()).collect();
        assert_eq!(ports[..3], ports[3..]);
        assert!((ports[0] + 1) % 3 == ports[1] && (ports[1] + 1) % 3 == ports[2], "in order: {ports:?}");
    }

    #[test]
    fn random_and_least_request_go_by_weight() {
        for balance in [Balance::Random, Balance::LeastRequest] {
            let counts = picks(&[9, 1], balance, 10_000);
            let first = *counts.get(&0).unwrap();
            assert!((8_700..=9_950).contains(&first), "{balance:?} {counts:?}");
        }
        assert!(endpoints(&[]).pick(Balance::Random).is_none());
        assert!(endpoints(&[u32::MAX, u32::MAX, 1]).pick(Balance::RoundRobin).is_some());
    }

    #[test]
    fn steps_reach_everything() {
        for total in (1..500).chain([u64::from(u32::MAX), u64::from(u32::MAX) * 1000]) {
            assert_eq!(gcd(even_step(total), total), 1, "{total}");
        }
    }
}
