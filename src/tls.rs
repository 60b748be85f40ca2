//! TLS of the listener for webhooks (rustls): the certificate, its key, and the authorities of client certificates. And a
//! client for this server.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Far beyond any chain of certificates; it stops at a device or log given by mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Clients that may resume their session without a new handshake.
const MAX_SESSIONS: usize = 4096;

/// The files of a listener with TLS, in PEM.
#[derive(Clone, Copy, Debug)]
pub struct TlsFiles<'a> {
    /// The server's certificate, followed by those between it and its authority.
    pub certificate: &'a Path,
    pub key: &'a Path,
    /// With it, clients need a certificate of one of these authorities.
    pub client_ca: Option<&'a Path>,
}

/// What a listener with TLS needs, read and checked.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    pub config: Arc<ServerConfig>,
    /// The server's certificate.
    pub certificate: CertificateDer<'static>,
    /// Tells whether the authorities of clients are the same. `None`: clients need no certificate.
    pub client_ca: Option<Vec<u8>>,
    /// When the certificate is valid (wall clock, ms).
    pub valid_from_ms: i64,
    pub valid_until_ms: i64,
}

/// A file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// `certificate`, `key` or `client_ca`.
    pub key: &'static str,
    /// Another user may be able to read the file.
    pub is_denied: bool,
    pub text: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TlsError {}

/// Reads the files, and checks that they belong together.
///
/// # Errors
/// A file can't be read or has the wrong content.
pub fn load(files: TlsFiles<'_>) -> Result<TlsIdentity, TlsError> {
    let chain = read_certificates("certificate", files.certificate)?;
    let invalid = |text: &str| error("certificate", files.certificate, text);
    let Some(certificate) = chain.first().cloned() else {
        return Err(invalid("has no certificate: expected one in PEM"));
    };
    let (_, parsed) = X509Certificate::from_der(&certificate)
        .map_err(|e| invalid(&format!("has an invalid certificate: {e}")))?;
    let to_ms = |seconds: i64| seconds.saturating_mul(1000);
    let valid_from_ms = to_ms(parsed.validity.not_before.timestamp());
    let valid_until_ms = to_ms(parsed.validity.not_after.timestamp());

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = read_key(files.key)?;
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => error(
            "key",
            files.key,
            "does not belong to the certificate: expected the key of the first certificate in \
             server.tls.certificate",
        ),
        e => error("key", files.key, &format!("can't be used with the certificate: {e}")),
    })?;
    let (mut config, client_ca) = build_config(&provider, certified, files.client_ca)?;
    // Clients that offer HTTP/2 too must choose HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(MAX_SESSIONS);
    let config = Arc::new(config);
    Ok(TlsIdentity { config, certificate, client_ca, valid_from_ms, valid_until_ms })
}

fn build_config(
    provider: &Arc<CryptoProvider>,
    certified: CertifiedKey,
    client_ca: Option<&Path>,
) -> Result<(ServerConfig, Option<Vec<u8>>), TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| TlsError { key: "certificate", is_denied: false, text: e.to_string() })?;
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    let Some(path) = client_ca else {
        return Ok((builder.with_no_client_auth().with_cert_resolver(resolver), None));
    };
    let invalid = |text: &str| error("client_ca", path, text);
    let mut roots = RootCertStore::empty();
    let certificates = read_certificates("client_ca", path)?;
    let digest = certificates.iter().fold(Context::new(&SHA256), |mut context, certificate| {
        context.update(certificate);
        context
    });
    for certificate in certificates {
        roots.add(certificate).map_err(|e| invalid(&format!("has an invalid certificate: {e}")))?;
    }
    if roots.is_empty() {
        return Err(invalid(
            "has no certificate: expected those of the senders' authorities in PEM",
        ));
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|e| invalid(&e.to_string()))?;
    let config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
    Ok((config, Some(digest.finish().as_ref().to_vec())))
}

/// Returns the settings of a client that knows the server's certificate, and accepts no other. Names and times do not
/// matter then.
///
/// # Errors
/// The library has no protocol version.
pub fn client_of(certificate: CertificateDer<'static>) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(OnlyCertificate { certificate, algorithms });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts one certificate.
#[derive(Debug)]
struct OnlyCertificate {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OnlyCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *end_entity == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn error(key: &'static str, path: &Path, text: &str) -> TlsError {
    TlsError { key, is_denied: false, text: format!("{} {text}", path.display()) }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > MAX_FILE_BYTES => {
            Err(error(key, path, "is larger than 1 MiB: expected a file in PEM"))
        }
        Ok(_) => Ok(bytes),
        Err(e) => {
            let is_denied = e.kind() == ErrorKind::PermissionDenied;
            Err(TlsError { is_denied, ..error(key, path, &format!("can't be read: {e}")) })
        }
    }
}

fn read_certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(key, path)?;
    let certificates: Result<_, PemError> = CertificateDer::pem_slice_iter(&bytes).collect();
    certificates.map_err(|e| error(key, path, &format!("is not PEM: {e}")))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read("key", path)?;
    let is_encrypted = memchr::memmem::find(&bytes, b"ENCRYPTED").is_some();
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| match e {
        _ if is_encrypted => error(
            "key",
            path,
            "is encrypted: expected a key without a passphrase, which `openssl pkey` writes",
        ),
        PemError::NoItemsFound => error("key", path, "has no private key: expected one in PEM"),
        e => error("key", path, &format!("is not PEM: {e}")),
    })
}
