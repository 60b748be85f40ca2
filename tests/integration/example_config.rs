//! The configuration that `hooktrail init` writes, with the bodies that Paminga documents.

use std::fs;
use std::path::Path;

use hooktrail::internals::config::{EMBEDDED, EMBEDDED_HANDLERS};

use crate::support::server::{Server, scenario};

fn payload(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/payloads");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// A server with the sources and handlers of that configuration.
fn server_of_init() -> Server {
    let (_, part) = EMBEDDED.split_once("[sources.paminga]").unwrap();
    let scenario = scenario().raw_config(&format!("[sources.paminga]{part}"));
    fs::create_dir(scenario.path().join("handlers")).unwrap();
    for (name, text) in EMBEDDED_HANDLERS {
        scenario.write_file(name, text);
    }
    scenario.start()
}

#[test]
fn the_documented_paminga_campaign_is_a_job_for_each_contact() {
    let server = server_of_init();
    assert_eq!(server.post("/hooks/paminga", payload("paminga-campaign.json")).status, 202);
    server.until("select succeeded from trail", "4");
    for (item, contact) in [(1, "1234567"), (2, "12345678"), (3, "123456789")] {
        let output = server.value(&format!(
            "select cast(a.stdout as text) from outcomes o join attempts a on a.id = o.id \
             where o.handler = 'show-contact' and o.item = {item}"
        ));
        let expected = [
            &format!("item {item} of event 1"),
            &format!("contact_id: {contact}"),
            "at: 2019-08-02T15:45:22+00:00",
            "campaign_id: 12345",
            "campaign_name: Your Amazing Lead Gen Campaign",
            "action_id: 123456",
            "action_name: Campaign Start",
        ];
        assert_eq!(output.lines().collect::<Vec<_>>(), expected);
    }
    let output = server.cli(&["show", "1"]).stdout;
    let output = String::from_utf8_lossy(&output);
    for contact in ["1234567", "12345678", "123456789"] {
        assert!(output.lines().any(|line| line.trim() == format!("contact_id: {contact}")));
    }
}

#[test]
fn the_documented_paminga_form_is_one_job() {
    let server = server_of_init();
    server.post("/hooks/paminga", payload("paminga-form.json"));
    server.until("select jobs || succeeded from trail", "11");
    assert_eq!(server.value("select handler from outcomes"), "show-form");
}
