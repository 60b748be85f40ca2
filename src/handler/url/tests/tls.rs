//! Tests of TLS: trusted authorities, host names and closed connections.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn create_authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Starts a server with a certificate for `name` signed by `authority`, and returns its port. It
/// responds to `responses` requests of each connection and closes the connection at the next one.
fn tls_server(authority: &Authority, name: &str, responses: usize) -> u16 {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let conn = ServerConnection::new(config).unwrap();
                let mut reader = BufReader::new(StreamOwned::new(conn, stream));
                for _ in 0..responses {
                    if request(&mut reader).is_none() {
                        return;
                    }
                    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
                    reader.get_mut().write_all(response.as_bytes()).unwrap();
                }
                request(&mut reader);
                let stream = reader.get_mut();
                stream.conn.send_close_notify();
                let _ = stream.conn.complete_io(&mut stream.sock);
            });
        }
    });
    port
}

/// Builds a runner that trusts only `authority`.
fn runner_with(task: &Task, authority: &Authority) -> UrlRunner {
    let load_roots = vec![authority.der().clone()];
    let target = task.handler.url().unwrap();
    let client = UrlClient::new(&task.handler, target, || Ok(load_roots)).unwrap();
    UrlRunner { client: client.into(), load_roots: super::super::load_root_certificates }
}

#[test]
fn only_certificates_of_trusted_authorities_are_accepted() {
    let (own_authority, other_authority) =
        (create_authority("own"), create_authority("a stranger's"));
    let stop = CancelToken::new().unwrap();
    let task = task(&format!("https://localhost:{}/", tls_server(&own_authority, "localhost", 9)));
    let runner = runner_with(&task, &own_authority);
    for _ in 0..3 {
        // All attempts use the same connection.
        check(&runner.run(&task, &stop), Outcome::Succeeded, "status 200: 0");
    }
    let detail = "not connected: localhost: TLS: invalid peer certificate: UnknownIssuer";
    check(&runner_with(&task, &other_authority).run(&task, &stop), Outcome::Failed, detail);
}

#[test]
fn a_closed_idle_tls_connection_is_replaced_within_the_attempt() {
    let (own_authority, stop) = (create_authority("own"), CancelToken::new().unwrap());
    let task = task(&format!("https://localhost:{}/", tls_server(&own_authority, "localhost", 2)));
    let runner = runner_with(&task, &own_authority);
    for connection in [0, 0, 1, 1, 2] {
        let detail = format!("status 200: {connection}");
        check(&runner.run(&task, &stop), Outcome::Succeeded, &detail);
    }
}

#[test]
fn a_certificate_for_another_name_is_rejected() {
    let (own_authority, stop) = (create_authority("own"), CancelToken::new().unwrap());
    let task =
        task(&format!("https://127.0.0.1:{}/", tls_server(&own_authority, "crm.example.com", 9)));
    let result = runner_with(&task, &own_authority).run(&task, &stop);
    assert_eq!(result.outcome, Outcome::Failed);
    let detail = "not connected: 127.0.0.1: TLS: invalid peer certificate: certificate not valid";
    assert!(result.detail.starts_with(detail), "{}", result.detail);
}

#[test]
fn a_server_that_does_not_speak_tls_fails_the_attempt() {
    let (own_authority, stop) = (create_authority("own"), CancelToken::new().unwrap());
    for response in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let task = task(&format!("https://{}/", listener.local_addr().unwrap()));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response);
        });
        let result = runner_with(&task, &own_authority).run(&task, &stop);
        server.join().unwrap();
        assert_eq!(result.outcome, Outcome::Failed);
        let detail = "not connected: 127.0.0.1: TLS: ";
        assert!(result.detail.starts_with(detail), "{}", result.detail);
    }
}

#[test]
fn without_root_certificates_the_attempt_is_not_started() {
    let task = task("https://127.0.0.1:1/");
    let load_roots = || Err("no certificate".to_owned().into());
    let runner = UrlRunner { client: OnceLock::new(), load_roots };
    let result = runner.run(&task, &CancelToken::new().unwrap());
    check(&result, Outcome::Failed, "not started: no certificate");
}
