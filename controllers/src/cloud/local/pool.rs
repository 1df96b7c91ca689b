//! The addresses that load balancers are given: ranges, and who has which. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use coracle_client::Key;

/// More would be a mistake, and every address is looked at in the worst case.
const ADDRESSES_MAX: u32 = 1 << 16;

/// Ranges of IPv4 addresses, which is what the proxy carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    text: String,
    ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
}

impl FromStr for Pool {
    type Err = String;

    /// `CIDR`, `FIRST-LAST` or one address; several with commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let ranges = text.split(',').map(|part| range(part.trim())).collect::<Result<Vec<_>, _>>()?;
        let pool = Self { text: text.to_owned(), ranges };
        match pool.count() {
            count if count > ADDRESSES_MAX => Err(format!("{count} addresses are more than {ADDRESSES_MAX}")),
            _ => Ok(pool),
        }
    }
}

fn range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let address = |text: &str| {
        text.trim().parse::<Ipv4Addr>().map_err(|_| {
            format!("{text:?}: give IPv4 addresses, as 192.0.2.0/28, 192.0.2.10-192.0.2.20 or 192.0.2.7")
        })
    };
    if let Some((network, prefix)) = text.split_once('/') {
        let network = address(network)?;
        let prefix: u32 = prefix.parse().ok().filter(|p| *p <= 32).ok_or(format!("{text:?}: no prefix"))?;
        let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
        let first = Ipv4Addr::from_bits(network.to_bits() & !hosts);
        if first != network {
            return Err(format!("{text:?} has bits beyond the prefix; did you mean {first}/{prefix}?"));
        }
        return Ok((first, Ipv4Addr::from_bits(first.to_bits() | hosts)));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (address(first)?, address(last)?);
    if first > last {
        Err(format!("{text:?}: the last address is before the first"))
    } else {
        Ok((first, last))
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pool {
    fn count(&self) -> u32 {
        self.ranges
            .iter()
            .map(|(first, last)| (last.to_bits() - first.to_bits()).saturating_add(1))
            .fold(0, u32::saturating_add)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&address))
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.ranges.iter().flat_map(|(first, last)| first.to_bits()..=last.to_bits()).map(Ipv4Addr::from_bits)
    }
}

/// Which Service has which address.
#[derive(Debug, Default)]
pub struct Ledger {
    by_address: BTreeMap<Ipv4Addr, Key>,
}

impl Ledger {
    pub fn of(&self, service: &Key) -> Option<Ipv4Addr> {
        self.by_address.iter().find(|(_, key)| *key == service).map(|(address, _)| *address)
    }

    /// Notes what a Service's status says it has; the first one to say so has it.
    pub fn note(&mut self, service: &Key, address: Ipv4Addr) {
        if self.of(service).is_none() {
            self.by_address.entry(address).or_insert_with(|| service.clone());
        }
    }

    pub fn release(&mut self, service: &Key) {
        self.by_address.retain(|_, key| key != service);
    }

    /// The Service's address: the one asked for, or the one it has, or the first free one.
    pub fn assign(
        &mut self,
        pool: &Pool,
        service: &Key,
        wanted: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, String> {
        let present = self.of(service).filter(|address| pool.contains(*address));
        let address = match (wanted, present) {
            (Some(wanted), _) => {
                if !pool.contains(wanted) {
                    return Err(format!("{wanted} is not in the load balancer pool {pool}"));
                }
                if let Some(holder) = self.by_address.get(&wanted).filter(|holder| *holder != service) {
                    return Err(format!("{wanted} is in use by Service {holder}"));
                }
                wanted
            }
            (None, Some(present)) => present,
            (None, None) => pool
                .addresses()
                .find(|address| !self.by_address.contains_key(address))
                .ok_or_else(|| format!("no free address in the load balancer pool {pool}"))?,
        };
        self.release(service);
        self.by_address.insert(address, service.clone());
        Ok(address)
    }
}

/// Which Service has which port of the nodes' own addresses.
#[derive(Debug, Default)]
pub struct Ports {
    by_port: BTreeMap<(String, i32), Key>,
}

impl Ports {
    pub fn release(&mut self, service: &Key) {
        self.by_port.retain(|_, key| key != service);
    }

    /// All of them or none.
    pub fn assign(&mut self, service: &Key, ports: &[(String, i32)], reserved: &[i32]) -> Result<(), String> {
        for (protocol, port) in ports {
            if protocol == "TCP" && reserved.contains(port) {
                return Err(format!("port {port}/TCP of the nodes is the API server's"));
            }
            let holder = self.by_port.get(&(protocol.clone(), *port)).filter(|holder| *holder != service);
            if let Some(holder) = holder {
                return Err(format!("port {port}/{protocol} of the nodes is in use by Service {holder}"));
            }
        }
        self.release(service);
        self.by_port.extend(ports.iter().map(|port| (port.clone(), service.clone())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Pool {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn pools_are_read() {
        for (text, count, inside, outside) in [
            ("192.0.2.0/30", 4, "192.0.2.3", "192.0.2.4"),
            ("192.0.2.7", 1, "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7/32", 1, "192.0.2.7", "192.0.2.6"),
            ("192.0.2.10-192.0.2.12", 3, "192.0.2.11", "192.0.2.13"),
            ("192.0.2.0/31, 198.51.100.5-198.51.100.5", 3, "198.51.100.5", "198.51.100.4"),
        ] {
            let pool = pool(text);
            assert_eq!(pool.count(), count, "{text}");
            assert!(pool.contains(ip(inside)) && !pool.contains(ip(outside)), "{text}");
        }
        for bad in
            ["", "x", "192.0.2.1/30", "192.0.2.0/33", "192.0.2.9-192.0.2.1", "fd00::/120", "10.0.0.0/8"]
        {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_given_kept_asked_for_and_given_back() {
        let pool = pool("192.0.2.0/31");
        let (a, b, c) = (Key::new("ns", "a"), Key::new("ns", "b"), Key::new("ns", "c"));
        let mut ledger = Ledger::default();
        ledger.note(&b, ip("192.0.2.0"));
        ledger.note(&c, ip("192.0.2.0"));
        assert_eq!(ledger.assign(&pool, &a, None), Ok(ip("192.0.2.1")));
        assert_eq!(ledger.assign(&pool, &a, None), Ok(ip("192.0.2.1")), "it keeps it");
        assert_eq!(ledger.assign(&pool, &b, None), Ok(ip("192.0.2.0")), "as its status said");
        assert_eq!(
            ledger.assign(&pool, &c, None),
            Err("no free address in the load balancer pool 192.0.2.0/31".into())
        );
        assert_eq!(
            ledger.assign(&pool, &c, Some(ip("192.0.2.1"))),
            Err("192.0.2.1 is in use by Service ns/a".into())
        );
        assert_eq!(
            ledger.assign(&pool, &c, Some(ip("192.0.2.9"))),
            Err("192.0.2.9 is not in the load balancer pool 192.0.2.0/31".into())
        );
        ledger.release(&b);
        assert_eq!(ledger.assign(&pool, &a, Some(ip("192.0.2.0"))), Ok(ip("192.0.2.0")), "it moves");
        assert_eq!(ledger.assign(&pool, &c, None), Ok(ip("192.0.2.1")));
    }

    #[test]
    fn ports_of_the_nodes_have_one_service_each() {
        let (a, b) = (Key::new("ns", "a"), Key::new("ns", "b"));
        let port = |n: i32| ("TCP".to_owned(), n);
        let mut ports = Ports::default();
        assert_eq!(ports.assign(&a, &[port(80), port(443)], &[6443]), Ok(()));
        assert_eq!(
            ports.assign(&b, &[port(81), port(80)], &[]),
            Err("port 80/TCP of the nodes is in use by Service ns/a".into())
        );
        assert_eq!(ports.assign(&b, &[port(81)], &[]), Ok(()), "nothing was taken by what failed");
        assert_eq!(ports.assign(&b, &[("UDP".into(), 80)], &[]), Ok(()));
        assert_eq!(ports.assign(&a, &[port(81)], &[]), Ok(()), "b gave it up");
        assert_eq!(
            ports.assign(&b, &[port(6443)], &[6443]),
            Err("port 6443/TCP of the nodes is the API server's".into())
        );
        ports.release(&a);
        assert_eq!(ports.assign(&b, &[port(81)], &[]), Ok(()));
    }
}
