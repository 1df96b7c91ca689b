//! Gratuitous ARP: tells everybody on a link which machine an address is at.

use std::io;
use std::net::Ipv4Addr;

use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, sendto, socket,
};

const ETHERNET_BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const HARDWARE_ETHERNET: u16 = 1;
const REQUEST: u16 = 1;

/// A link with hardware addresses that is up.
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub hardware: [u8; 6],
}

pub fn interfaces() -> Vec<Interface> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    all.filter(|interface| {
        interface.flags.contains(InterfaceFlags::IFF_UP)
            && !interface.flags.intersects(InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_NOARP)
    })
    .filter_map(|interface| {
        let link = *interface.address?.as_link_addr()?;
        let hardware = link.addr().filter(|hardware| hardware.iter().any(|byte| *byte != 0))?;
        let index = u32::try_from(link.ifindex()).ok()?;
        Some(Interface { name: interface.interface_name, index, hardware })
    })
    .collect()
}

/// The frame: a request for the address by the one who has it, which updates neighbours' tables.
fn frame(hardware: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(ETHERNET_BROADCAST);
    frame.extend(hardware);
    frame.extend(ETHERTYPE_ARP.to_be_bytes());
    frame.extend(HARDWARE_ETHERNET.to_be_bytes());
    frame.extend(ETHERTYPE_IPV4.to_be_bytes());
    frame.extend([6, 4]);
    frame.extend(REQUEST.to_be_bytes());
    frame.extend(hardware);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

pub fn announce(interface: &Interface, address: Ipv4Addr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // Protocol 0: nothing is received.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETHERTYPE_ARP.to_be(),
        sll_ifindex: i32::try_from(interface.index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: `to` is a whole sockaddr_ll, and its family says so.
    let to = unsafe { LinkAddr::from_raw((&raw const to).cast(), Some(size)) };
    let to = to.ok_or_else(|| io::Error::other("no link address"))?;
    sendto(socket.as_raw_fd(), &frame(interface.hardware, address), &to, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_says_who_has_the_address() {
        let frame = frame([2, 0, 0, 0, 0, 7], [192, 0, 2, 9].into());
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6]);
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 7, 192, 0, 2, 9]);
        assert_eq!(frame[32..], [0, 0, 0, 0, 0, 0, 192, 0, 2, 9]);
    }
}
