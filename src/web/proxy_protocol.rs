//! The PROXY protocol, version 2 (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>): a header before the
//! first byte of a connection, by which a proxy says for whom it connects.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The part of a header that has its length.
const MINIMUM_LENGTH: usize = 16;

/// The longest header: addresses of unix sockets, and what proxies add.
const MAX_HEADER_BYTES: usize = 4096;

/// For whom a proxy connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Client(SocketAddr),
    /// A client whose address is not one of the internet, or not known.
    UnknownClient,
    /// The proxy itself, for example to check the server.
    Proxy,
}

/// Reads a header, and nothing after it.
///
/// # Errors
/// The connection ends, or does not begin with a header.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Origin> {
    let mut bytes = vec![0; MINIMUM_LENGTH];
    stream.read_exact(&mut bytes).await?;
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    if !bytes.starts_with(PROTOCOL_PREFIX) {
        let text = "it does not begin with the PROXY protocol, version 2";
        return Err(invalid(text.to_owned()));
    }
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > MAX_HEADER_BYTES {
        return Err(invalid(format!("its PROXY header has {length} bytes")));
    }
    bytes.resize(MINIMUM_LENGTH + length, 0);
    stream.read_exact(&mut bytes[MINIMUM_LENGTH..]).await?;
    let header = Header::try_from(bytes.as_slice())
        .map_err(|e| invalid(format!("its PROXY header is invalid: {e}")))?;
    if header.command == Command::Local {
        return Ok(Origin::Proxy);
    }
    Ok(match header.addresses {
        Addresses::IPv4(addresses) => {
            Origin::Client((addresses.source_address, addresses.source_port).into())
        }
        Addresses::IPv6(addresses) => {
            Origin::Client((addresses.source_address, addresses.source_port).into())
        }
        Addresses::Unspecified | Addresses::Unix(_) => Origin::UnknownClient,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header before `rest`, and checks that `rest` is left.
    #[track_caller]
    fn read_before(rest: &[u8], header: &[u8]) -> io::Result<Origin> {
        let all = [header, rest].concat();
        let mut input = all.as_slice();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(read(&mut input))?;
        assert_eq!(input, rest);
        Ok(found)
    }

    fn header(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [PROTOCOL_PREFIX, &[0x20 | command, family], &length, addresses].concat()
    }

    #[test]
    fn the_address_of_the_client_is_read_and_nothing_after_the_header() {
        let four = [203, 0, 113, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let found = read_before(b"POST / HTTP/1.1", &header(1, 0x11, &four)).unwrap();
        let client = |text: &str| Origin::Client(text.parse().unwrap());
        assert_eq!(found, client("203.0.113.7:8080"));
        // With a field that the proxy adds.
        let longer = [&four[..], &[4, 0, 1, 0]].concat();
        let found = read_before(b"", &header(1, 0x11, &longer)).unwrap();
        assert_eq!(found, client("203.0.113.7:8080"));
        let mut six = [0; 36];
        (six[15], six[32], six[33]) = (1, 0, 7);
        let found = read_before(b"x", &header(1, 0x21, &six)).unwrap();
        assert_eq!(found, client("[::1]:7"));
    }

    #[test]
    fn a_client_without_an_address_is_unknown_and_a_proxy_may_connect_for_itself() {
        assert_eq!(read_before(b"GET", &header(0, 0x00, &[])).unwrap(), Origin::Proxy);
        assert_eq!(read_before(b"GET", &header(1, 0x00, &[])).unwrap(), Origin::UnknownClient);
        let unix = header(1, 0x31, &[0; 216]);
        assert_eq!(read_before(b"GET", &unix).unwrap(), Origin::UnknownClient);
    }

    #[test]
    fn what_is_no_header_of_version_2_is_an_error() {
        for text in [
            &b"POST /hooks/a HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n",
            b"\r\n\r\n",
            &header(2, 0x11, &[0; 12]),
            &header(1, 0x11, &[0; 4]),
            &header(1, 0x51, &[0; 12]),
        ] {
            assert!(read_before(b"", text).is_err(), "{text:?}");
        }
    }
}
