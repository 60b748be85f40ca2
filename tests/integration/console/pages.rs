//! Each page of the console, with each form that an event has.

use serde_json::{Value, json};

use super::{Console, console_scenario};

fn page(name: &str, path: impl Into<String>, status: u16) -> Value {
    json!({ "name": name, "path": path.into(), "status": status })
}

/// A server whose console has something to show on each page. Returns the pages, and two events that are neighbours.
fn every_page() -> (Console, Vec<Value>, [i64; 2]) {
    let quick = "retry = { max_attempts = 2, initial_delay = \"10ms\" }\nwhen = '.email'";
    let breaker = "breaker = { threshold = 1, cooldown = \"1h\" }\nwhen = '.order'";
    let slow = "while [ ! -e stop ]; do echo still running; sleep 0.2; done";
    let scenario = console_scenario()
        .server("max_body_size = \"4 MiB\"")
        .source("a", "")
        .source("shop", "verify = { scheme = \"bearer\", secret = { file = \"reader.token\" } }")
        .source("late", "")
        .handler("crm", quick, "cat > /dev/null; echo unknown contact >&2; exit 1")
        .handler("newsletter", "split = '.contacts[]?'", "cat > /dev/null; echo added")
        .handler("erp", breaker, "echo service unavailable >&2; exit 75")
        .handler("slow", "when = '.slow'", slow)
        .handler("later", "paused = true\nwhen = '.later'", "true")
        .handler("expression", "when = 'last(range(1e12))'", "true")
        .handler_source("expression", "late");
    let console = Console::start(scenario);
    let server = &console.server;
    let json = "Content-Type: application/json";
    let failed = console.post("/hooks/a", r#"{"email":"ada@example.com","contacts":["a","b"]}"#);
    let contacts: Vec<String> = (0..60).map(|number| format!("\"contact {number}\"")).collect();
    let many = console.post("/hooks/a", format!("{{\"contacts\":[{}]}}", contacts.join(",")));
    let without_jobs = console.post("/hooks/a", "{}");
    let queued = console.post("/hooks/a", r#"{"order":1}"#);
    let running = console.post("/hooks/a", r#"{"slow":true}"#);
    let waiting = console.post("/hooks/a", r#"{"later":true}"#);
    let binary: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let binary = server.request("POST", "/hooks/a", "", &binary).event_id();
    let huge = console.post("/hooks/a", format!("[\"{}\"]", "long text ".repeat(100_000)));
    let empty = server.request("POST", "/hooks/a", "", b"").event_id();
    let removed = console.post("/hooks/a", r#"{"email":"erased@example.com"}"#);
    for path in ["/hooks/shop", "/hooks/nothing", "/nothing"] {
        assert!(server.request("POST", path, json, b"{}").status >= 400);
    }
    server.until(&format!("select dead from trail where event in ({failed}, {removed})"), "1 1");
    server.until(&format!("select running from trail where event = {running}"), "1");
    server.until(&format!("select succeeded from trail where event = {many}"), "60");
    let (code, text) = server.cli_text(&["erase", &removed.to_string(), "--yes"]);
    assert_eq!(code, Some(0), "{text}");
    console.call("/handlers/newsletter/pause", &json!({}));
    console.call("/jobs/cancel", &json!({ "event": waiting }));
    let job = server.value(&format!("select id from jobs where event = {failed} order by id"));
    let event = |id: i64| format!("/events/{id}");
    let pages = vec![
        page("overview", "/", 200),
        page("events", "/events", 200),
        page("events-source", "/events?source=a", 200),
        page("events-handler", "/events?handler=crm&state=dead", 200),
        page("events-since", "/events?since=1h&until=2099-01-01", 200),
        page("events-text", "/events?text=ada%40example.com", 200),
        page("events-none", "/events?text=nobody", 200),
        page("events-limit", "/events?limit=2", 200),
        page("events-failure", "/events?failure=1", 200),
        page("events-invalid", "/events?since=never", 400),
        page("event-failed", event(failed), 200),
        page("event-job", format!("/events/{failed}?job={job}"), 200),
        page("event-state", format!("/events/{failed}?state=dead"), 200),
        page("event-state-none", format!("/events/{failed}?state=running"), 200),
        page("event-raw", format!("/events/{failed}?body=raw"), 200),
        page("event-operation", format!("/events/{waiting}?operation=1"), 200),
        page("event-many", event(many), 200),
        page("event-many-state", format!("/events/{many}?state=succeeded"), 200),
        page("event-without-jobs", event(without_jobs), 200),
        page("event-queued", event(queued), 200),
        page("event-running", event(running), 200),
        page("event-binary", event(binary), 200),
        page("event-huge", event(huge), 200),
        page("event-empty", event(empty), 200),
        page("event-removed", event(removed), 200),
        page("failures", "/failures", 200),
        page("failures-handler", "/failures?handler=crm", 200),
        page("failures-none", "/failures?handler=newsletter", 200),
        page("rejections", "/rejections", 200),
        page("rejections-source", "/rejections?source=shop", 200),
        page("handlers", "/handlers", 200),
        page("audit", "/audit", 200),
        page("operation", "/operations/1", 200),
        page("event-missing", "/events/999999", 404),
        page("page-missing", "/nothing", 404),
        page("operation-missing", "/operations/999", 404),
        page("parameter-unknown", "/events?colour=red", 400),
        page("state-unknown", format!("/events/{failed}?state=red"), 400),
    ];
    (console, pages, [failed, many])
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn each_page_is_accessible_and_fits_a_phone_in_the_light_theme() {
    let (console, pages, _) = every_page();
    console.run("pages", "light", json!({ "pages": pages, "deferring": "/hooks/late" }));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn each_page_is_accessible_and_fits_a_phone_in_the_dark_theme() {
    let (console, pages, _) = every_page();
    console.run("pages", "dark", json!({ "pages": pages, "deferring": "/hooks/late" }));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn the_tab_key_reaches_each_control_and_the_focus_is_visible() {
    let (console, pages, _) = every_page();
    console.run("pages", "keyboard", json!({ "pages": pages }));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn the_first_link_of_a_page_leads_to_its_content() {
    let (console, ..) = every_page();
    console.run("pages", "skip_link", json!({}));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn keys_lead_to_the_search_and_to_the_next_event() {
    let (console, _, neighbours) = every_page();
    console.run("pages", "shortcuts", json!({ "neighbours": neighbours }));
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn pages_without_rows_are_accessible() {
    let console = Console::start(console_scenario());
    let paths = ["/", "/events", "/failures", "/rejections", "/handlers", "/audit"];
    let pages: Vec<Value> = paths
        .into_iter()
        .map(|path| page(&format!("empty{}", path.replace('/', "-")), path, 200))
        .collect();
    console.run("pages", "light", json!({ "pages": pages }));
}
