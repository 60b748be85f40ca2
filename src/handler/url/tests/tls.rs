//! TLS: whom it trusts, and that it is no other who answers.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server of that name, vouched for by `authority`: its port. It answers so many requests of each
/// connection, and meets the next with the end.
fn server(authority: &Authority, name: &str, answers: usize) -> u16 {
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
                for _ in 0..answers {
                    if request(&mut reader).is_none() {
                        return;
                    }
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
                    reader.get_mut().write_all(answer.as_bytes()).unwrap();
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

/// The handler of a machine that trusts `authority` alone.
fn url(task: &Task, authority: &Authority) -> Url {
    let roots = vec![Certificate::from_der(authority.der()).to_owned()];
    let target = task.handler.target.as_ref().unwrap();
    let client = Client::new(&task.handler, target, || Ok(roots)).unwrap();
    Url { client: client.into(), roots: super::super::load_root_certificates }
}

#[test]
fn an_owners_own_authority_is_trusted_and_a_strangers_is_not() {
    let (own, strangers) = (authority("own"), authority("a stranger's"));
    let stop = CancelToken::new().unwrap();
    let task = task(&format!("https://localhost:{}/", server(&own, "localhost", 9)));
    let trusting = url(&task, &own);
    for _ in 0..3 {
        // The same connection each time.
        check(&trusting.run(&task, &stop), Outcome::Succeeded, "status 200: 0");
    }
    let detail = "not connected: localhost: TLS: invalid peer certificate: UnknownIssuer";
    check(&url(&task, &strangers).run(&task, &stop), Outcome::Failed, detail);
}

#[test]
fn a_kept_connection_that_was_closed_costs_no_attempt() {
    let (own, stop) = (authority("own"), CancelToken::new().unwrap());
    let task = task(&format!("https://localhost:{}/", server(&own, "localhost", 2)));
    let url = url(&task, &own);
    for connection in [0, 0, 1, 1, 2] {
        let detail = format!("status 200: {connection}");
        check(&url.run(&task, &stop), Outcome::Succeeded, &detail);
    }
}

#[test]
fn another_name_is_another_server() {
    let (own, stop) = (authority("own"), CancelToken::new().unwrap());
    let task = task(&format!("https://127.0.0.1:{}/", server(&own, "crm.example.com", 9)));
    let ended = url(&task, &own).run(&task, &stop);
    assert_eq!(ended.outcome, Outcome::Failed);
    let detail = "not connected: 127.0.0.1: TLS: invalid peer certificate: certificate not valid";
    assert!(ended.detail.starts_with(detail), "{}", ended.detail);
}

#[test]
fn who_does_not_speak_tls_has_failed() {
    let (own, stop) = (authority("own"), CancelToken::new().unwrap());
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let task = task(&format!("https://{}/", listener.local_addr().unwrap()));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        });
        let ended = url(&task, &own).run(&task, &stop);
        server.join().unwrap();
        assert_eq!(ended.outcome, Outcome::Failed);
        let detail = "not connected: 127.0.0.1: TLS: ";
        assert!(ended.detail.starts_with(detail), "{}", ended.detail);
    }
}

#[test]
fn a_machine_that_trusts_nobody_says_what_to_do() {
    let task = task("https://127.0.0.1:1/");
    let roots = || Err("no certificate".to_owned().into());
    let none = Url { client: OnceLock::new(), roots };
    let ended = none.run(&task, &CancelToken::new().unwrap());
    check(&ended, Outcome::Failed, "not started: no certificate");
}
