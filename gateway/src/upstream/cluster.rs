//! A cluster on one worker: picks endpoints, keeps their connections across configurations.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{Endpoint, RequestBody};
use crate::{clock::Clock, snapshot};

/// A cluster's settings with its endpoints.
pub struct Cluster<B: RequestBody> {
    settings: Arc<snapshot::Cluster>,
    endpoints: RefCell<Vec<Rc<Endpoint<B>>>>,
    clock: Clock,
}

impl<B: RequestBody> Cluster<B> {
    pub(crate) fn new(settings: Arc<snapshot::Cluster>, clock: Clock) -> Self {
        let cluster = Self { endpoints: RefCell::default(), settings, clock };
        cluster.set_endpoints(&cluster.settings.endpoints);
        cluster
    }

    /// The same cluster with new settings. Endpoints that stay keep their connections, unless another
    /// protocol is spoken now.
    pub(crate) fn renew(&self, settings: Arc<snapshot::Cluster>) -> Self {
        let endpoints = if settings.protocol == self.settings.protocol {
            RefCell::new(self.endpoints.borrow().clone())
        } else {
            RefCell::default()
        };
        let cluster = Self { endpoints, settings, clock: self.clock.clone() };
        cluster.set_endpoints(&cluster.settings.endpoints);
        cluster
    }

    /// What was configured.
    #[must_use]
    pub fn settings(&self) -> &Arc<snapshot::Cluster> {
        &self.settings
    }

    /// Replaces the endpoints. Requests in flight finish where they are; an address that stays keeps its
    /// connections; unused connections of one that goes are closed.
    pub(crate) fn set_endpoints(&self, wanted: &[snapshot::Endpoint]) {
        let mut current = self.endpoints.borrow_mut();
        let old = std::mem::take(&mut *current);
        for endpoint in wanted {
            match old.iter().find(|known| known.address() == endpoint.address) {
                Some(known) => {
                    known.set_weight(endpoint.weight);
                    current.push(Rc::clone(known));
                }
                None => current.push(Endpoint::new(endpoint.address, endpoint.weight, self.clock.clone())),
            }
        }
        for gone in old.iter().filter(|old| wanted.iter().all(|endpoint| endpoint.address != old.address())) {
            gone.close_idle();
        }
    }

    /// Chooses an endpoint: of two drawn by weight, the one with fewer requests for its weight (Envoy's
    /// LEAST_REQUEST, Istio's default). `None` if there is no endpoint.
    #[must_use]
    pub fn pick(&self) -> Option<Rc<Endpoint<B>>> {
        let endpoints = self.endpoints.borrow();
        match endpoints.as_slice() {
            [] => None,
            [only] => Some(Rc::clone(only)),
            several => {
                let (one, two) = (draw(several)?, draw(several)?);
                let load = |endpoint: &Endpoint<B>| {
                    (u64::from(endpoint.active()) + 1) * u64::from(u32::MAX) / u64::from(endpoint.weight())
                };
                Some(Rc::clone(if load(two) < load(one) { two } else { one }))
            }
        }
    }

    /// Closes connections that are too old or that the peer closed. Returns how many are left.
    pub(crate) fn sweep(&self) -> usize {
        let endpoints = self.endpoints.borrow();
        endpoints
            .iter()
            .map(|endpoint| {
                endpoint.sweep(self.settings.idle_timeout);
                endpoint.connections()
            })
            .sum()
    }
}

/// An endpoint drawn at random by weight.
fn draw<B: RequestBody>(endpoints: &[Rc<Endpoint<B>>]) -> Option<&Rc<Endpoint<B>>> {
    let total: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight())).sum();
    let mut ticket = fastrand::u64(..total.max(1));
    endpoints.iter().find(|endpoint| {
        let weight = u64::from(endpoint.weight());
        let hit = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        hit
    })
}
