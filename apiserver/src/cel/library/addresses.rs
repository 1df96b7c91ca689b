//! Addresses and networks of IP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Opaque;
use crate::cel::error::EvalError;
use crate::cel::functions::{Functions, Site};
use crate::cel::value::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub length: u8,
}

pub(super) fn declare(functions: &mut Functions) {
    functions.global("ip", ip, &[("string_to_ip", "string -> ip")]);
    functions.global("isIP", is_ip, &[("is_ip", "string -> bool")]);
    functions.global("ip.isCanonical", is_canonical, &[("ip_is_canonical", "string -> bool")]);
    functions.member("family", family, &[("ip_family", "ip -> int")]);
    functions.member(
        "isUnspecified",
        |_, arguments| test(arguments, |ip| ip.is_unspecified()),
        &[("ip_is_unspecified", "ip -> bool")],
    );
    functions.member(
        "isLoopback",
        |_, arguments| test(arguments, |ip| ip.is_loopback()),
        &[("ip_is_loopback", "ip -> bool")],
    );
    functions.member(
        "isLinkLocalMulticast",
        |_, arguments| test(arguments, is_link_local_multicast),
        &[("ip_is_link_local_multicast", "ip -> bool")],
    );
    functions.member(
        "isLinkLocalUnicast",
        |_, arguments| test(arguments, is_link_local_unicast),
        &[("ip_is_link_local_unicast", "ip -> bool")],
    );
    functions.member(
        "isGlobalUnicast",
        |_, arguments| test(arguments, is_global_unicast),
        &[("ip_is_global_unicast", "ip -> bool")],
    );
    functions.global("cidr", cidr, &[("string_to_cidr", "string -> cidr")]);
    functions.global("isCIDR", is_cidr, &[("is_cidr", "string -> bool")]);
    functions.member(
        "containsIP",
        contains_ip,
        &[("cidr_contains_ip_string", "cidr, string -> bool"), ("cidr_contains_ip_ip", "cidr, ip -> bool")],
    );
    functions.member(
        "containsCIDR",
        contains_cidr,
        &[
            ("cidr_contains_cidr_string", "cidr, string -> bool"),
            ("cidr_contains_cidr", "cidr, cidr -> bool"),
        ],
    );
    functions.member("ip", cidr_ip, &[("cidr_ip", "cidr -> ip")]);
    functions.member("prefixLength", prefix_length, &[("cidr_prefix_length", "cidr -> int")]);
    functions.member("masked", masked, &[("cidr_masked", "cidr -> cidr")]);
}

pub(super) fn cidr_text(cidr: &Cidr) -> String {
    format!("{}/{}", cidr.address, cidr.length)
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if let Some((address, _)) = text.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    let address: IpAddr = text.parse().map_err(|_| {
        format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): {}",
            wrong_address(text)
        )
    })?;
    if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok(address)
}

/// What Go finds wrong with an address.
fn wrong_address(text: &str) -> String {
    if !text.contains(['.', ':']) {
        return if text.contains('%') { "missing IPv6 address".into() } else { "unable to parse IP".into() };
    }
    if text.contains(':') {
        return "unexpected character".to_owned() + &format!(", want colon (at {text:?})");
    }
    let mut number = String::new();
    let mut fields = 0;
    for (place, character) in text.char_indices() {
        match character {
            '.' if number.is_empty() || place + 1 == text.len() => {
                return format!("IPv4 field must have at least one digit (at {:?})", &text[place..]);
            }
            '.' if fields == 3 => return "IPv4 address too long".into(),
            '.' => {
                fields += 1;
                number.clear();
            }
            digit if digit.is_ascii_digit() => {
                if number == "0" {
                    return "IPv4 field has octet with leading zero".into();
                }
                number.push(digit);
                if number.parse::<u16>().is_ok_and(|value| value > 255) {
                    return "IPv4 field has value >255".into();
                }
            }
            _ => return format!("unexpected character (at {:?})", &text[place..]),
        }
    }
    "IPv4 address too short".into()
}

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let wrong = |why: &str| {
        format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}"
        )
    };
    let (address, length) = text.rsplit_once('/').ok_or_else(|| wrong("no '/'"))?;
    let parsed: IpAddr =
        address.parse().map_err(|_| wrong(&format!("ParseAddr({address:?}): {}", wrong_address(address))))?;
    let longest = if parsed.is_ipv4() { 32 } else { 128 };
    let plain = !length.is_empty()
        && length.bytes().all(|digit| digit.is_ascii_digit())
        && (length.len() == 1 || !length.starts_with('0'));
    if !plain {
        return Err(wrong(&format!("bad bits after slash: {length:?}")));
    }
    let length = length
        .parse()
        .ok()
        .filter(|length| *length <= longest)
        .ok_or_else(|| wrong("prefix length out of range"))?;
    if matches!(parsed, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok(Cidr { address: parsed, length })
}

impl Cidr {
    fn masked(self) -> Cidr {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Cidr { address, ..self }
    }

    fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Cidr { address, ..self }.masked() == self.masked()
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets(), [224, 0, 0, _]),
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local_unicast(ip))
}

type Result2<'a> = Result<Value<'a>, EvalError>;

fn text<'v>(arguments: &'v [Value<'_>]) -> Result<&'v str, EvalError> {
    match arguments {
        [Value::String(text)] => Ok(text),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn ip<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    parse_ip(text(arguments)?).map(|ip| Value::Opaque(Opaque::Ip(ip))).map_err(EvalError::new)
}

fn is_ip<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Bool(parse_ip(text(arguments)?).is_ok()))
}

fn is_canonical<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let text = text(arguments)?;
    parse_ip(text).map(|ip| Value::Bool(ip.to_string() == text)).map_err(EvalError::new)
}

fn family<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    match arguments {
        [Value::Opaque(Opaque::Ip(ip))] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn test<'a>(arguments: &[Value<'a>], holds: impl Fn(IpAddr) -> bool) -> Result2<'a> {
    match arguments {
        [Value::Opaque(Opaque::Ip(ip))] => Ok(Value::Bool(holds(*ip))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn conversion(text: &str) -> Result<Cidr, EvalError> {
    parse_cidr(text).map_err(|why| {
        EvalError::new(format!("network address parse error during conversion from string: {why}"))
    })
}

fn cidr<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    conversion(text(arguments)?).map(|cidr| Value::Opaque(Opaque::Cidr(cidr)))
}

fn is_cidr<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Bool(parse_cidr(text(arguments)?).is_ok()))
}

fn contains_ip<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    match arguments {
        [Value::Opaque(Opaque::Cidr(cidr)), Value::Opaque(Opaque::Ip(ip))] => {
            Ok(Value::Bool(cidr.contains(*ip)))
        }
        [Value::Opaque(Opaque::Cidr(cidr)), Value::String(text)] => {
            // Upstream takes what is no address for an argument of the wrong type.
            parse_ip(text).map(|ip| Value::Bool(cidr.contains(ip))).map_err(|_| EvalError::no_such_overload())
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn contains_cidr<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    let holds = |outer: &Cidr, inner: Cidr| {
        Value::Bool(outer.length <= inner.length && outer.contains(inner.address))
    };
    match arguments {
        [Value::Opaque(Opaque::Cidr(outer)), Value::Opaque(Opaque::Cidr(inner))] => Ok(holds(outer, *inner)),
        [Value::Opaque(Opaque::Cidr(outer)), Value::String(text)] => {
            conversion(text).map(|inner| holds(outer, inner))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn network(arguments: &[Value<'_>]) -> Result<Cidr, EvalError> {
    match arguments {
        [Value::Opaque(Opaque::Cidr(cidr))] => Ok(*cidr),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn cidr_ip<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Opaque(Opaque::Ip(network(arguments)?.address)))
}

fn prefix_length<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Int(network(arguments)?.length.into()))
}

fn masked<'a>(_: &Site, arguments: &[Value<'a>]) -> Result2<'a> {
    Ok(Value::Opaque(Opaque::Cidr(network(arguments)?.masked())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_addresses() {
        let network = parse_cidr("192.168.0.0/16").unwrap();
        assert!(network.contains("192.168.3.4".parse().unwrap()));
        assert!(!network.contains("10.0.0.1".parse().unwrap()));
        assert!(!network.contains("::1".parse().unwrap()));
        assert!(parse_cidr("::/0").unwrap().contains("fe80::1".parse().unwrap()));
        for wrong in ["1.2.3.4", "1.2.3.4/33", "1.2.3.4/08", "::ffff:1.2.3.4/100", "x/8"] {
            assert!(parse_cidr(wrong).is_err(), "{wrong}");
        }
        for wrong in ["1.2.3", "01.2.3.4", "256.0.0.1", "::ffff:1.2.3.4", "fe80::1%eth0", "", "1.2.3.4.5"] {
            assert!(parse_ip(wrong).is_err(), "{wrong}");
        }
    }
}
