//! Which endpoint a pod's datagrams to a Service go to, as long as they talk: what conntrack is to packets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A flow that is silent this long is forgotten, as conntrack does with UDP.
const IDLE: Duration = Duration::from_secs(30);
/// A flow that never falls silent is balanced anew after this: its endpoint may be gone.
const AGE_MAX: Duration = Duration::from_secs(120);
const FLOWS_MAX: usize = 256;

#[derive(Default)]
pub struct Flows {
    by_wanted: Mutex<HashMap<SocketAddr, Flow>>,
}

struct Flow {
    endpoint: SocketAddr,
    begun: Instant,
    used: Instant,
}

impl Flow {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.used) > IDLE || now.duration_since(self.begun) > AGE_MAX
    }
}

impl Flows {
    pub fn endpoint_of(&self, wanted: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let mut flows = self.by_wanted.lock();
        let flow = flows.get_mut(&wanted).filter(|flow| !flow.is_over(now))?;
        flow.used = now;
        Some(flow.endpoint)
    }

    pub fn begin(&self, wanted: SocketAddr, endpoint: SocketAddr, now: Instant) {
        let mut flows = self.by_wanted.lock();
        if flows.len() >= FLOWS_MAX {
            flows.retain(|_, flow| !flow.is_over(now));
        }
        if flows.len() < FLOWS_MAX {
            flows.insert(wanted, Flow { endpoint, begun: now, used: now });
        }
    }

    /// The Service's address that datagrams from an endpoint are answers of. Where two Services have the endpoint, the
    /// one that was talked to last.
    pub fn wanted_of(&self, endpoint: SocketAddr) -> Option<SocketAddr> {
        let flows = self.by_wanted.lock();
        let found = flows.iter().filter(|(_, flow)| flow.endpoint == endpoint);
        found.max_by_key(|(_, flow)| flow.used).map(|(wanted, _)| *wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_end_when_they_are_silent_or_old() {
        let (flows, begun) = (Flows::default(), Instant::now());
        let (wanted, endpoint) = ("10.96.0.1:53".parse().unwrap(), "10.244.0.2:53".parse().unwrap());
        flows.begin(wanted, endpoint, begun);
        for n in 1..=4 {
            assert_eq!(flows.endpoint_of(wanted, begun + IDLE * n), Some(endpoint));
        }
        assert_eq!(flows.endpoint_of(wanted, begun + IDLE * 5), None, "old");
        flows.begin(wanted, endpoint, begun);
        assert_eq!(flows.endpoint_of(wanted, begun + IDLE * 2), None, "silent");
        for port in 0..1000 {
            flows.begin(SocketAddr::new(endpoint.ip(), port), endpoint, begun);
        }
        assert!(flows.by_wanted.lock().len() <= FLOWS_MAX);
    }
}
