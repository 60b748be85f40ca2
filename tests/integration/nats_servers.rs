//! The nats-servers of `support::nats` behave as the tests of JetStream rely on: they ask for the proof that a test
//! sets up, they limit what they accept, and a cluster loses nothing with one of its servers.

use serde_json::json;

use crate::support::nats::{Access, NatsClient, NatsCluster, nats_server};
use crate::support::server::until;
use crate::support::tls_client::Authority;

/// A server accepts a client with the right proof, and none without it.
#[track_caller]
fn asks_for(access: Access) {
    let server = nats_server().access(access).start();
    let client = server.client();
    client.create_stream("S", &["a.>"], json!({}));
    assert_eq!(client.publish("a.b", &[], b"1"), 1);
    let rejected = server.try_client(Access::Anyone).err();
    let rejected = rejected.unwrap_or_else(|| panic!("{access:?}: anyone may connect"));
    assert!(rejected.contains("authorization"), "{access:?}: {rejected}");
}

#[test]
fn a_server_with_a_password_a_token_an_nkey_or_credentials_asks_for_them() {
    for access in [Access::Password, Access::Token, Access::Nkey, Access::Credentials] {
        asks_for(access);
    }
}

#[test]
fn a_server_with_tls_asks_the_client_for_its_certificate() {
    let authority = Authority::new("CA");
    let server = nats_server().tls(&authority).start();
    let client = server.client();
    client.create_stream("S", &["a"], json!({}));
    client.publish("a", &[], b"1");
    let other = Authority::new("another CA");
    std::fs::write(server.path().join("ca.pem"), other.pem()).unwrap();
    assert!(server.try_client(Access::Anyone).is_err(), "a certificate of another authority");
}

#[test]
fn a_full_stream_and_a_large_message_are_errors_and_change_nothing() {
    let server = nats_server().config("max_payload: 1024").start();
    let client = server.client();
    client.create_stream("S", &["a"], json!({ "max_msgs": 1, "discard": "new" }));
    client.publish("a", &[], b"first");
    let full = client.try_publish("a", &[], b"second").unwrap_err();
    assert!(full.contains("maximum messages exceeded"), "{full}");
    let large = client.try_publish("a", &[], &[b'x'; 2000]).unwrap_err();
    assert!(large.contains("payload"), "{large}");
    assert_eq!(client.message_count("S"), 1);
}

#[test]
fn a_server_that_is_killed_has_its_messages_after_the_restart() {
    let mut server = nats_server().start();
    server.client().create_stream("S", &["a"], json!({}));
    server.client().publish("a", &[("Nats-Msg-Id", "1"), ("Other", "x")], b"first");
    server.kill();
    server.restart();
    server.until_healthy();
    let client = server.client();
    // The stream still knows the message by its header, and does not store it again.
    assert_eq!(client.publish("a", &[("Nats-Msg-Id", "1")], b"first"), 1);
    let messages = client.messages("S");
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((message.sequence, message.subject.as_str()), (1, "a"));
    assert_eq!((message.headers["Other"].as_str(), &message.payload[..]), ("x", &b"first"[..]));
}

#[test]
#[ignore = "needs a newer nats-server: tests/run installs it"]
fn a_cluster_stores_messages_without_its_leader_and_none_without_a_majority() {
    let mut cluster = NatsCluster::start();
    let client = cluster.client();
    client.create_stream("S", &["a"], json!({ "num_replicas": 3 }));
    client.publish("a", &[("Nats-Msg-Id", "1")], b"1");
    let leader = cluster.leader_of(&client, "S");
    cluster.servers[leader].kill();
    let publish = |id: &str| client.try_publish("a", &[("Nats-Msg-Id", id)], id.as_bytes());
    until("another server leads the stream", || publish("2").is_ok());
    let paused = (leader + 1) % 3;
    cluster.servers[paused].pause();
    assert!(publish("3").is_err(), "one server of three stored a message");
    cluster.servers[paused].resume();
    cluster.servers[leader].restart();
    cluster.until_healthy();
    until("the stream stores messages again", || publish("4").is_ok());
    let payloads: Vec<_> =
        client.messages("S").into_iter().map(|message| message.payload).collect();
    let has = |payload: &[u8]| payloads.iter().filter(|found| *found == payload).count() == 1;
    assert!(has(b"1") && has(b"2") && has(b"4"), "{payloads:?}");
}

mod partition {
    use super::*;
    use crate::support::network::with_network;

    #[test]
    #[ignore = "needs root, network namespaces and a newer nats-server: tests/run installs it"]
    fn a_server_without_a_network_to_the_others_stores_nothing_and_catches_up_afterwards() {
        with_network(3, |network| {
            let mut cluster = NatsCluster::start_with("", |index, setup| {
                setup.address(network.address(index)).wrapped_by(&network.command(index))
            });
            let client = cluster.client();
            client.create_stream("S", &["a"], json!({ "num_replicas": 3 }));
            let leader = cluster.leader_of(&client, "S");
            let others = [(leader + 1) % 3, (leader + 2) % 3];
            network.separate(&[leader], &others);
            let isolated = cluster.servers[leader].client();
            assert!(
                isolated.try_publish("a", &[], b"lost").is_err(),
                "one server stored a message"
            );
            let connected = cluster.servers[others[0]].client();
            let publish = |client: &NatsClient, id: &str| {
                client.try_publish("a", &[("Nats-Msg-Id", id)], id.as_bytes())
            };
            until("the others elect a leader", || publish(&connected, "1").is_ok());
            network.heal();
            cluster.until_healthy();
            until("the server stores messages again", || publish(&isolated, "2").is_ok());
            let messages = connected.messages("S");
            let payloads: Vec<_> = messages.iter().map(|message| &message.payload[..]).collect();
            assert_eq!(payloads, [b"1", b"2"]);
        });
    }
}
