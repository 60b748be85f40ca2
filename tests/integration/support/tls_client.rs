//! A client that speaks TLS, with certificates made for the test.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::client::{Response, parse_response, request_bytes};
use crate::support::server::DEADLINE;

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub certificate_pem: String,
    pub key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for `localhost`, whose subject has these attributes.
    pub fn issue(&self, subject: &[(DnType, &str)]) -> Identity {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().expect("a key");
        let issued = params.signed_by(&key, &self.0).expect("a certificate");
        Identity { certificate: issued.der().clone(), certificate_pem: issued.pem(), key }
    }
}

/// Connects to a server whose certificate `authority` has issued. `identity` is what the client shows if the server asks
/// for a certificate.
pub fn connect(
    port: u16,
    authority: &Authority,
    identity: Option<&Identity>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).expect("an authority");
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match identity {
        Some(Identity { certificate, key, .. }) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(vec![certificate.clone()], key).expect("an identity")
        }
        None => builder.with_no_client_auth(),
    };
    let name = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    StreamOwned::new(connection, stream)
}

/// Sends a request on a new connection. `None`: there was no complete response.
pub fn send_tls_request(
    port: u16,
    authority: &Authority,
    identity: Option<&Identity>,
    (method, path, headers): (&str, &str, &str),
    body: &[u8],
) -> Option<Response> {
    let mut stream = connect(port, authority, identity);
    // The server may close before it has read the whole request.
    let _ = stream.write_all(&request_bytes(method, path, headers, body));
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    parse_response(&String::from_utf8_lossy(&response))
}
