//! Sorts addresses by RFC 6724, as far as the choice of the first address depends on it.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Sorts addresses: first those that can be reached, from a source address of the same kind.
pub(crate) fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    if addresses.len() > 1 {
        addresses.sort_by_cached_key(|address| rank(*address, source(*address)));
    }
    addresses
}

/// Returns the source address that this machine would use for an address. Sends nothing.
fn source(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // The port does not matter.
    socket.connect(SocketAddr::new(address, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Returns the sort key of an address; the least comes first.
fn rank(address: IpAddr, source: Option<IpAddr>) -> (bool, bool, bool, Reverse<u8>, u8) {
    let (precedence, label) = policy(address);
    let (is_unreachable, has_other_scope, has_other_label) = match source {
        Some(source) => (false, scope(source) != scope(address), policy(source).1 != label),
        None => (true, true, true),
    };
    (is_unreachable, has_other_scope, has_other_label, Reverse(precedence), scope(address))
}

/// Returns precedence and label of the RFC's default policy table.
fn policy(address: IpAddr) -> (u8, u8) {
    let IpAddr::V6(address) = address else { return (35, 4) };
    match address.segments() {
        _ if address == Ipv6Addr::LOCALHOST => (50, 0),
        [0x2002, ..] => (30, 2),
        [0x2001, 0, ..] => (5, 5),
        [first, ..] if first & 0xfe00 == 0xfc00 => (3, 13),
        [first, ..] if first & 0xffc0 == 0xfec0 => (1, 11),
        _ => (40, 1),
    }
}

/// Returns the scope of an address.
fn scope(address: IpAddr) -> u8 {
    const LINK: u8 = 2;
    const SITE: u8 = 5;
    const GLOBAL: u8 = 14;
    match address {
        IpAddr::V4(address) if address.is_loopback() || address.is_link_local() => LINK,
        IpAddr::V4(_) => GLOBAL,
        IpAddr::V6(address) if address.is_loopback() => LINK,
        IpAddr::V6(address) => match address.segments()[0] {
            first if first & 0xff00 == 0xff00 => u8::try_from(first & 0xf).unwrap_or(GLOBAL),
            first if first & 0xffc0 == 0xfe80 => LINK,
            first if first & 0xffc0 == 0xfec0 => SITE,
            _ => GLOBAL,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Sorts addresses for a machine with these source addresses.
    fn order(pairs: &[(&str, Option<&str>)]) -> Vec<String> {
        let mut pairs: Vec<_> = pairs.iter().map(|(to, from)| (address(to), from.map(address))).collect();
        pairs.sort_by_key(|(to, from)| rank(*to, *from));
        pairs.iter().map(|(to, _)| to.to_string()).collect()
    }

    /// IPv6 comes first if it is equally reachable, but not without a route, or with a source address of another kind only.
    #[test]
    fn addresses_that_can_be_reached_come_first() {
        let (v4, v6) = ("198.51.100.1", "2001:db8::1");
        assert_eq!(order(&[(v4, Some("198.51.100.2")), (v6, Some("2001:db8::2"))]), [v6, v4]);
        assert_eq!(order(&[(v6, None), (v4, Some("10.0.0.2"))]), [v4, v6]);
        assert_eq!(order(&[(v6, Some("fd00::2")), (v4, Some("10.0.0.2"))]), [v4, v6]);
        assert_eq!(order(&[(v6, Some("fe80::2")), (v4, Some("10.0.0.2"))]), [v4, v6]);
        assert_eq!(order(&[("fd00::1", Some("fd00::2")), (v4, Some("10.0.0.2"))]), [v4, "fd00::1"]);
        assert_eq!(order(&[("127.0.0.1", Some("127.0.0.1")), ("::1", Some("::1"))]), ["::1", "127.0.0.1"]);
    }

    /// Addresses of equal rank keep their order, and none is dropped.
    #[test]
    fn order_is_kept_otherwise() {
        let addresses = ["127.0.0.9", "127.0.0.1", "127.0.0.5"].map(address).to_vec();
        assert_eq!(sorted(addresses.clone()), addresses);
        assert_eq!(source(address("127.0.0.9")).map(|source| source.is_loopback()), Some(true));
    }
}
