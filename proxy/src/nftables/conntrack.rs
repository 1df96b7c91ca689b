//! Makes the kernel forget UDP flows whose endpoint is gone, so that their next datagram meets the rules again.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};
use tracing::{debug, warn};

use super::render::Entrance;
use crate::dns::Family;

const UDP: u8 = 17;
/// Sets of one request; what remains after that waits for the next change of its Service.
const FORGOTTEN_MAX: usize = 65_536;
/// The kernel sends a dump in pieces of at most 32 KiB.
const DUMP_BUFFER: usize = 64 * 1024;

/// A way in by UDP, and where its flows may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    pub entrance: Entrance,
    pub endpoints: Vec<SocketAddr>,
}

/// One line per entrance, with the endpoints of all.
pub fn merged(all: Vec<Watched>) -> Vec<Watched> {
    let mut by_entrance: BTreeMap<Entrance, Vec<SocketAddr>> = BTreeMap::new();
    for watched in all {
        by_entrance.entry(watched.entrance).or_default().extend(watched.endpoints);
    }
    by_entrance.into_iter().map(|(entrance, endpoints)| Watched { entrance, endpoints }).collect()
}

/// A failure leaves some clients with a dead endpoint until they are silent for a while: worth a warning, no more.
pub async fn forget(watched: Vec<Watched>) {
    if watched.is_empty() {
        return;
    }
    match tokio::task::spawn_blocking(move || forget_flows(&watched)).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(count)) => debug!(count, "UDP flows forgotten"),
        Ok(Err(error)) => warn!(%error, "UDP flows to endpoints that are gone could not be forgotten"),
    }
}

/// A flow as conntrack knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    /// Where the client sends to.
    to: SocketAddr,
    /// Who answers.
    from: SocketAddr,
    /// The attribute that names it to the kernel, as it came.
    original: Vec<u8>,
}

fn is_stale(flow: &Flow, watched: &[Watched]) -> bool {
    flow.protocol == UDP
        && watched.iter().any(|w| {
            let entered = match &w.entrance {
                Entrance::Service { address, port, .. } => flow.to == SocketAddr::new(*address, *port),
                Entrance::NodePort { family, port, .. } => {
                    flow.to.port() == *port && Family::of(flow.to.ip()) == *family
                }
            };
            entered && !w.endpoints.contains(&flow.from)
        })
}

fn forget_flows(watched: &[Watched]) -> io::Result<usize> {
    let dump = Netlink::open()?;
    dump.send(GET, NLM_F_REQUEST | NLM_F_DUMP, ANY_FAMILY, &[])?;
    let mut stale = Vec::new();
    dump.receive(|payload| {
        if let Some(flow) = parse(payload)
            && is_stale(&flow, watched)
            && stale.len() < FORGOTTEN_MAX
        {
            stale.push(flow);
        }
    })?;
    let deletion = Netlink::open()?;
    for flow in &stale {
        let family = if flow.to.is_ipv4() { AF_INET } else { AF_INET6 };
        deletion.send(DELETE, NLM_F_REQUEST | NLM_F_ACK, family, &flow.original)?;
        match deletion.receive(|_| {}) {
            // It ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(stale.len())
}

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// struct nfgenmsg: family, version, resource.
const FAMILY_HEADER: usize = 4;
const ANY_FAMILY: u8 = 0;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            Some(SockProtocol::NetlinkNetFilter),
        )?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    fn send(&self, kind: u16, flags: u16, family: u8, attributes: &[u8]) -> io::Result<()> {
        let length = HEADER + FAMILY_HEADER + attributes.len();
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let mut message = Vec::new();
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([family, 0, 0, 0]);
        message.extend(attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Hands over the payload of every message until the end of the dump, or the acknowledgement.
    fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; DUMP_BUFFER];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, payload, next)) = message(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = payload.first_chunk().map_or(-libc::EIO, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(payload),
                }
                rest = next;
            }
        }
    }
}

/// The first message's type and payload, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let payload = bytes.get(HEADER..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Attributes: type without flags, the whole attribute with its padding, its value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        let end = length.next_multiple_of(4).min(bytes.len());
        let (whole, rest) = bytes.split_at(end);
        bytes = rest;
        Some((kind, whole, value))
    })
}

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, ..)| *kind == wanted).map(|(_, _, value)| value)
}

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const IP: u16 = 1;
const PROTOCOL: u16 = 2;
/// Of IPv4, IPv6.
const SOURCE_ADDRESS: (u16, u16) = (1, 3);
const DESTINATION_ADDRESS: (u16, u16) = (2, 4);
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

fn parse(payload: &[u8]) -> Option<Flow> {
    let body = payload.get(FAMILY_HEADER..)?;
    let (_, whole, original) = attributes(body).find(|(kind, ..)| *kind == TUPLE_ORIGINAL)?;
    let reply = attribute(body, TUPLE_REPLY)?;
    let end = |tuple: &[u8], address: (u16, u16), port: u16| {
        let ip = attribute(tuple, IP)?;
        let ip: IpAddr = match attribute(ip, address.0) {
            Some(four) => <[u8; 4]>::try_from(four).ok()?.into(),
            None => <[u8; 16]>::try_from(attribute(ip, address.1)?).ok()?.into(),
        };
        let port: [u8; 2] = attribute(attribute(tuple, PROTOCOL)?, port)?.try_into().ok()?;
        Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
    };
    Some(Flow {
        protocol: *attribute(attribute(original, PROTOCOL)?, PROTOCOL_NUMBER)?.first()?,
        to: end(original, DESTINATION_ADDRESS, DESTINATION_PORT)?,
        from: end(reply, SOURCE_ADDRESS, SOURCE_PORT)?,
        original: whole.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Protocol;

    fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
        leaf(kind | 0x8000, &parts.concat())
    }

    fn leaf(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, from: &str, to: &str) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        nested(
            kind,
            &[
                nested(IP, &[address(SOURCE_ADDRESS, from.ip()), address(DESTINATION_ADDRESS, to.ip())]),
                nested(
                    PROTOCOL,
                    &[
                        leaf(PROTOCOL_NUMBER, &[UDP]),
                        leaf(SOURCE_PORT, &from.port().to_be_bytes()),
                        leaf(DESTINATION_PORT, &to.port().to_be_bytes()),
                    ],
                ),
            ],
        )
    }

    fn address(kind: (u16, u16), ip: IpAddr) -> Vec<u8> {
        match ip {
            IpAddr::V4(ip) => leaf(kind.0, &ip.octets()),
            IpAddr::V6(ip) => leaf(kind.1, &ip.octets()),
        }
    }

    fn flow(to: &str, answering: &str) -> Flow {
        let client = if to.starts_with('[') { "[fd00:244::9]:5000" } else { "10.244.0.9:5000" };
        let body = [tuple(TUPLE_ORIGINAL, client, to), tuple(TUPLE_REPLY, answering, client)].concat();
        parse(&[vec![0; FAMILY_HEADER], body].concat()).unwrap()
    }

    #[test]
    fn flows_parse_whole_or_not_at_all() {
        let flow = flow("10.96.0.10:53", "10.244.0.2:5353");
        assert_eq!(flow.protocol, UDP);
        assert_eq!(flow.to.to_string(), "10.96.0.10:53");
        assert_eq!(flow.from.to_string(), "10.244.0.2:5353");
        assert_eq!(flow.original, tuple(TUPLE_ORIGINAL, "10.244.0.9:5000", "10.96.0.10:53"));
        for end in 0..flow.original.len() {
            let bytes = [vec![0; FAMILY_HEADER], flow.original[..end].to_vec()].concat();
            assert_eq!(parse(&bytes), None, "{end}");
        }
    }

    #[test]
    fn flows_of_an_entrance_to_others_than_its_endpoints_are_stale() {
        let endpoints = vec!["10.244.0.2:5353".parse().unwrap()];
        let service =
            Entrance::Service { address: "10.96.0.10".parse().unwrap(), protocol: Protocol::Udp, port: 53 };
        let node_port = Entrance::NodePort { family: Family::V4, protocol: Protocol::Udp, port: 30_053 };
        let six =
            Entrance::Service { address: "fd00:96::10".parse().unwrap(), protocol: Protocol::Udp, port: 53 };
        let watched =
            [service, node_port, six].map(|entrance| Watched { entrance, endpoints: endpoints.clone() });
        for (to, answering, stale) in [
            ("10.96.0.10:53", "10.244.0.2:5353", false),
            ("10.96.0.10:53", "10.244.0.3:5353", true),
            ("10.96.0.11:53", "10.244.0.3:5353", false),
            ("192.0.2.10:30053", "10.244.0.2:5353", false),
            ("192.0.2.10:30053", "192.0.2.10:30053", true),
            ("[2001:db8::1]:30053", "[2001:db8::1]:30053", false),
            ("[fd00:96::10]:53", "[fd00:244::3]:5353", true),
            ("[fd00:96::11]:53", "[fd00:244::3]:5353", false),
        ] {
            assert_eq!(is_stale(&flow(to, answering), &watched), stale, "{to} {answering}");
        }
    }

    #[test]
    fn an_entrance_that_stays_keeps_its_endpoints() {
        let entrance = Entrance::NodePort { family: Family::V4, protocol: Protocol::Udp, port: 1 };
        let endpoint = "10.0.0.1:1".parse().unwrap();
        let with = |endpoints: Vec<SocketAddr>| Watched { entrance: entrance.clone(), endpoints };
        assert_eq!(merged(vec![with(vec![]), with(vec![endpoint])]), [with(vec![endpoint])]);
    }
}
