//! Finds the address of the client: that of the peer, or the one that a trusted proxy names.
//!
//! The proxy's header is read from right to left, because each proxy appends to it. The first
//! address that does not belong to a trusted proxy is the client's. The client is unknown if that
//! element is not an address (RFC 7239 section 6 allows `unknown` and `_hidden`), or if the header
//! is empty or missing. The proxy's own address would let any client pass `allow_from`. IPv4 inside
//! IPv6 counts as IPv4.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::config::{ProxyHeader, TrustedProxies};
use crate::verify::forwarded_pair;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(IpAddr),
    Unix,
}

/// Returns the other end of a connection with this address.
pub fn peer_of(address: Option<SocketAddr>) -> Peer {
    address.map_or(Peer::Unix, |address| Peer::Tcp(address.ip()))
}

/// Whether the peer is a proxy whose headers are trusted.
pub fn is_trusted_proxy(peer: Peer, trusted: &TrustedProxies) -> bool {
    match peer {
        Peer::Unix => trusted.has_unix,
        Peer::Tcp(ip) => is_in(&trusted.networks, ip),
    }
}

/// Returns the client's address. `None`: unknown, for example over a unix socket without a proxy.
pub fn client_ip(
    peer: Peer,
    headers: &[(&str, &[u8])],
    trusted: &TrustedProxies,
    header: ProxyHeader,
) -> Option<IpAddr> {
    if !is_trusted_proxy(peer, trusted) {
        return match peer {
            Peer::Tcp(ip) => Some(ip.to_canonical()),
            Peer::Unix => None,
        };
    }
    let (name, parse): (_, fn(&str) -> Option<IpAddr>) = match header {
        ProxyHeader::XForwardedFor => ("x-forwarded-for", parse_address),
        ProxyHeader::Forwarded => ("forwarded", parse_forwarded_for),
    };
    let lines = headers.iter().rev().filter(|(found, _)| *found == name);
    let mut client = None;
    for part in lines.flat_map(|(_, value)| value.rsplit(|&byte| byte == b',')) {
        let ip = std::str::from_utf8(part).ok().and_then(parse)?.to_canonical();
        client = Some(ip);
        if !is_in(&trusted.networks, ip) {
            break;
        }
    }
    client
}

/// Formats an address. For IPv4, `to_string` executes several times as many instructions.
pub fn to_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => {
            let mut buffers = [itoa::Buffer::new(); 4];
            let mut parts = [""; 4];
            for ((part, buffer), octet) in parts.iter_mut().zip(&mut buffers).zip(v4.octets()) {
                *part = buffer.format(octet);
            }
            parts.join(".")
        }
        IpAddr::V6(v6) => v6.to_string(),
    }
}

/// Whether the source accepts requests from this address. An empty list allows every address.
pub fn is_allowed(allow_from: &[IpNet], ip: Option<IpAddr>) -> bool {
    allow_from.is_empty() || ip.is_some_and(|ip| is_in(allow_from, ip))
}

fn is_in(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

/// Parses `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:4711`.
/// An address with a zone (RFC 4007) has no meaning on this machine.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches([' ', '\t']);
    if text.contains('%') {
        return None;
    }
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(text) = bracketed {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

fn parse_forwarded_for(element: &str) -> Option<IpAddr> {
    parse_address(forwarded_pair(element, "for")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> TrustedProxies {
        let networks = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        TrustedProxies { networks, has_unix: true }
    }

    /// `expected` is an address, or `unknown`.
    fn check(peer: &str, header: &str, expected: &str) {
        let peer = peer.parse().map_or(Peer::Unix, Peer::Tcp);
        let (name, kind) = if header.contains('=') {
            ("forwarded", ProxyHeader::Forwarded)
        } else {
            ("x-forwarded-for", ProxyHeader::XForwardedFor)
        };
        let client = client_ip(peer, &[(name, header.as_bytes())], &trusted(), kind);
        assert_eq!(client, expected.parse().ok(), "{header} through {peer:?}");
    }

    #[test]
    fn an_address_is_formatted_as_usual() {
        for text in ["0.0.0.0", "127.0.0.1", "255.10.9.100", "2001:db8::1", "::"] {
            assert_eq!(to_text(text.parse().unwrap()), text);
        }
    }

    #[test]
    fn the_header_of_a_trusted_proxy_is_read_from_right_to_left() {
        check("10.0.0.1", "6.6.6.6, 192.0.2.7, 10.1.1.1", "192.0.2.7");
        check("::ffff:10.0.0.1", "192.0.2.7", "192.0.2.7");
        check("unix", "192.0.2.7:99", "192.0.2.7");
        check("10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7");
        check("10.0.0.1", r#"for=6.6.6.6, for="[2001:db8::1]:4711";proto=https"#, "2001:db8::1");
    }

    #[test]
    fn the_header_of_another_peer_is_ignored() {
        check("192.0.2.9", "6.6.6.6", "192.0.2.9");
    }

    #[test]
    fn an_element_that_is_not_an_address_makes_the_client_unknown() {
        for header in [
            "6.6.6.6, unknown, 10.1.1.1",
            "",
            " ",
            ",",
            "192.0.2.7,",
            "unknown",
            "_hidden",
            "junk",
            "fe80::1%eth0",
            "[fe80::1%1]:80",
            "192.0.2.7:99999",
            "192.0.2.7:",
            "[192.0.2.7]",
            "\"192.0.2.7\"",
            "for=unknown",
            "for=_hidden",
            "for=\"[fe80::1%1]:80\"",
            "for=192.0.2.7, for=",
            "for=192.0.2.7, proto=https",
            "for=192.0.2.7:_port",
        ] {
            check("10.0.0.1", header, "unknown");
            check("unix", header, "unknown");
        }
    }

    #[test]
    fn a_trusted_proxy_without_its_header_makes_the_client_unknown() {
        for other in [&[][..], &[("forwarded", &b"for=192.0.2.7"[..])]] {
            let peer = Peer::Tcp("10.0.0.1".parse().unwrap());
            assert_eq!(client_ip(peer, other, &trusted(), ProxyHeader::XForwardedFor), None);
        }
        let no_proxies = TrustedProxies::default();
        assert_eq!(client_ip(Peer::Unix, &[], &no_proxies, ProxyHeader::XForwardedFor), None);
    }

    #[test]
    fn an_address_is_allowed_in_one_of_the_networks() {
        let from: Vec<IpNet> = vec!["192.0.2.0/24".parse().unwrap()];
        assert!(is_allowed(&from, "192.0.2.1".parse().ok()));
        assert!(is_allowed(&from, "::ffff:192.0.2.1".parse().ok()));
        assert!(!is_allowed(&from, "198.51.100.1".parse().ok()));
        assert!(!is_allowed(&from, None));
        assert!(is_allowed(&[], None));
    }
}
