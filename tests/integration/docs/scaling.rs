//! docs/scaling.md: its tables are those of the simulation, which agrees with theory, and a nats-server does what the
//! page says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Output};

use serde_json::json;

use super::{blocks, page, repository};
use crate::support::nats::nats_server;
use crate::support::tls_client::Authority;

fn simulate(args: &[&str]) -> Output {
    let program = repository().join("benches/capacity.py");
    Command::new("python3").arg(program).args(args).output().expect("python3")
}

/// The lines from `<!-- NAME -->` to `<!-- end of NAME -->`, by the name.
fn tables(text: &str) -> BTreeMap<String, String> {
    let mut tables = BTreeMap::new();
    for part in text.split("<!-- ").skip(1) {
        let Some((name, rest)) = part.split_once(" -->") else { continue };
        if !name.starts_with("end of ") && text.contains(&format!("<!-- end of {name} -->")) {
            tables.insert(name.to_owned(), rest.trim().to_owned());
        }
    }
    tables
}

#[test]
fn the_simulation_of_a_deployment_agrees_with_queueing_theory() {
    let output = simulate(&["--check"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        text.lines().count() > 10 && text.lines().all(|line| line.starts_with("ok: ")),
        "{text}"
    );
}

#[test]
fn the_tables_of_the_page_are_those_that_the_simulation_prints() {
    let output = simulate(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = tables(&String::from_utf8_lossy(&output.stdout));
    assert!(printed.len() >= 5, "{printed:?}");
    let page = tables(&page("docs/scaling.md"));
    for (name, table) in printed {
        assert_eq!(
            page.get(&name),
            Some(&table),
            "docs/scaling.md: {name}: run benches/capacity.py"
        );
    }
}

/// The block of the page that contains a text.
fn configuration_with(text: &str) -> String {
    let all = blocks(&page("docs/scaling.md"), "conf");
    all.into_iter().find(|block| block.contains(text)).expect("a block")
}

#[test]
fn the_documented_configuration_of_a_nats_server_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("CA");
    let identity = authority.issue(&[(rcgen::DnType::CommonName, "n1")]);
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("ca.pem", &authority.pem());
    write("n1.pem", &identity.certificate_pem);
    write("n1.key", &identity.key.serialize_pem());
    let text = configuration_with("server_name") + &configuration_with("mappings");
    assert!(text.contains("/etc/nats/n1.pem"), "{text}");
    let file = folder.path().join("nats-server.conf");
    fs::write(&file, text.replace("/etc/nats", &folder.path().display().to_string())).unwrap();
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
    let mut check = Command::new("nats-server");
    let output = check.args(["-t", "-c"]).arg(&file).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_documented_mapping_puts_the_messages_of_a_key_into_one_partition_in_their_order() {
    let server = nats_server().config(&configuration_with("mappings")).start();
    let client = server.client();
    client.create_stream("HOOKS", &["hooks.>", "partitions.>"], json!({}));
    for round in ["first", "second"] {
        for key in 0..60 {
            let subject = format!("hooks.paminga.{key}");
            client.publish(&subject, &[("Nats-Expected-Stream", "HOOKS")], round.as_bytes());
        }
    }
    let mut rounds = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for message in client.messages("HOOKS") {
        rounds.entry(message.subject).or_default().push(message.payload);
    }
    assert_eq!(rounds.len(), 60, "a key has several subjects: {:?}", rounds.keys());
    assert!(rounds.values().all(|found| *found == [b"first".to_vec(), b"second".to_vec()]));
    let partitions: BTreeSet<u32> = rounds
        .keys()
        .map(|subject| subject.strip_prefix("partitions.paminga.").expect("a partition"))
        .map(|rest| rest.split('.').next().unwrap().parse().unwrap())
        .collect();
    assert!(partitions.len() > 6 && partitions.iter().all(|number| *number < 12), "{partitions:?}");
}
