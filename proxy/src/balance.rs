//! Chooses an endpoint: in turn, or for a known client the one it had.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::table::{self, Source};

/// Clients remembered per entrance.
const CLIENTS_MAX: usize = 65_536;

pub struct Balancer {
    state: Mutex<State>,
}

struct State {
    sources: Vec<Source>,
    endpoints: Vec<SocketAddr>,
    next: usize,
    affinity: Option<Duration>,
    clients: HashMap<IpAddr, (SocketAddr, Instant)>,
}

impl Balancer {
    pub fn new(endpoints: &[SocketAddr], affinity: Option<Duration>) -> Self {
        let next = if endpoints.is_empty() { 0 } else { rand::random_range(0..endpoints.len()) };
        Self {
            state: Mutex::new(State {
                sources: Vec::new(),
                endpoints: endpoints.to_vec(),
                next,
                affinity,
                clients: HashMap::new(),
            }),
        }
    }

    /// New endpoints; clients keep theirs where it is still among them.
    pub fn set(&self, endpoints: &[SocketAddr], affinity: Option<Duration>) {
        let mut state = self.state.lock();
        state.endpoints = endpoints.to_vec();
        state.affinity = affinity;
        if affinity.is_none() {
            state.clients = HashMap::new();
        } else {
            state.clients.retain(|_, (endpoint, _)| endpoints.contains(endpoint));
        }
    }

    /// Others than these networks' clients get no endpoint; without any everybody does.
    pub fn let_in(&self, sources: &[Source]) {
        self.state.lock().sources = sources.to_vec();
    }

    pub fn choose(&self, client: IpAddr, now: Instant) -> Option<SocketAddr> {
        let mut state = self.state.lock();
        if state.endpoints.is_empty() || !table::admits(&state.sources, client) {
            return None;
        }
        let Some(affinity) = state.affinity else { return Some(state.in_turn()) };
        let known = state.clients.get(&client).filter(|(_, seen)| now.duration_since(*seen) < affinity);
        let endpoint = match known {
            Some((endpoint, _)) => *endpoint,
            None => state.in_turn(),
        };
        if state.clients.len() >= CLIENTS_MAX {
            state.clients.retain(|_, (_, seen)| now.duration_since(*seen) < affinity);
        }
        if state.clients.len() < CLIENTS_MAX {
            state.clients.insert(client, (endpoint, now));
        }
        Some(endpoint)
    }

    /// An endpoint did not answer: the client gets another next time.
    pub fn failed(&self, client: IpAddr) {
        self.state.lock().clients.remove(&client);
    }

    pub fn count(&self) -> usize {
        self.state.lock().endpoints.len()
    }
}

impl State {
    fn in_turn(&mut self) -> SocketAddr {
        self.next = (self.next + 1) % self.endpoints.len();
        self.endpoints[self.next]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;

    fn endpoint(last: u8) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(10, 0, 0, last).into(), 80)
    }

    #[test]
    fn endpoints_take_turns_and_clients_with_affinity_stay() {
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let now = Instant::now();
        let all = [endpoint(1), endpoint(2), endpoint(3)];
        let plain = Balancer::new(&all, None);
        let seen: BTreeSet<_> = (0..3).filter_map(|_| plain.choose(client, now)).collect();
        assert_eq!(seen.len(), 3);
        let sticky = Balancer::new(&all, Some(Duration::from_secs(10)));
        let first = sticky.choose(client, now);
        assert!((0..5).all(|i| sticky.choose(client, now + Duration::from_secs(i)) == first));
        let rest: Vec<_> = all.into_iter().filter(|e| Some(*e) != first).collect();
        sticky.set(&rest, Some(Duration::from_secs(10)));
        assert_ne!(sticky.choose(client, now), first, "its endpoint is gone");
        plain.let_in(&[(Ipv4Addr::new(10, 0, 0, 0).into(), 8)]);
        assert_eq!(plain.choose(client, now), None, "not of the networks that are let in");
        assert_eq!(Balancer::new(&[], None).choose(client, now), None);
    }
}
