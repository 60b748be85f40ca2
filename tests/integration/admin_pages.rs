//! Pages of the console, as a client without a browser gets them.

use crate::support::admin::{Api, admin_scenario, admin_scenario_with};
use crate::support::client::send_request;
use crate::support::server::scenario;

#[test]
fn a_body_that_is_nested_deeply_is_shown_as_it_came() {
    let server = admin_scenario().start();
    let api = Api::of(&server);
    // Indented, it would have 2 GB.
    let (open, close) = ("[".repeat(100), "]".repeat(100));
    let body = format!("{open}{}0{close}", "0,".repeat(100_000));
    assert_eq!(server.post("/hooks/a", &body).status, 202);
    let page = api.get("/events/1");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("[[[["), "the raw body is there");
    assert!(page.body.len() < 8 << 20, "{} bytes", page.body.len());
}

#[test]
fn a_page_has_the_number_of_the_change_that_its_stream_begins_with() {
    let server = admin_scenario().start();
    let api = Api::of(&server);
    server.post("/hooks/a", "{}");
    server.until("select succeeded from trail", "1");
    let page = api.get("/events").body;
    assert!(page.contains("data-live=\"1\" data-change=\""), "{page}");
    let shared = api.request("GET", "/events", "X-Change: 7", b"");
    assert!(shared.body.contains("data-change=\"7\""), "what is shown is not older than 7");
    // The page that a person opens is read again, and so is one without a change.
    for change in ["", "X-Change: 0", "X-Change: none"] {
        server.post("/hooks/a", "{}");
        let newest = server.value("select max(id) from events");
        let page = api.request("GET", "/events", change, b"").body;
        assert!(page.contains(&format!("href=\"/events/{newest}\"")), "{change:?}: {page}");
    }
}

#[test]
fn a_search_in_a_group_of_failures_stays_in_it() {
    let server = scenario().admin("listen = [\"127.0.0.1:0\"]").source("a", "");
    let server = server.handler("h", "retry = { max_attempts = 1 }", "exit 3").start();
    let api = Api::of(&server);
    server.post("/hooks/a", "{}");
    server.until("select dead from trail", "1");
    let group = server.value("select id from failure_groups");
    let page = api.get(&format!("/events?failure={group}")).body;
    assert!(page.contains("href=\"/events/1\""), "{page}");
    assert!(page.contains(&format!("href=\"/failures#failure-{group}\"")), "{page}");
    let field = format!("type=\"hidden\" name=\"failure\" value=\"{group}\"");
    assert!(page.contains(&field), "{page}");
    // The confirmation of another person's page, after the group was dismissed.
    let act = |fields: &str| {
        let form = "Content-Type: application/x-www-form-urlencoded";
        let body = format!("failure={group}&back=/failures{fields}");
        api.request("POST", "/actions/cancel", form, body.as_bytes())
    };
    assert!(act("").body.contains("Cancel 1 job?"));
    assert_eq!(act("&confirmed=1").status, 303);
    server.until("select cancelled from trail", "1");
    let late = act("");
    assert_eq!((late.status, late.body.contains("Nothing to do")), (200, true), "{late:?}");
}

#[test]
fn a_read_token_signs_in_and_out() {
    let scenario = admin_scenario_with("read_token = { file = \"read.token\" }");
    scenario.write_file("read.token", "a-token-that-only-reads\n");
    let server = scenario.start();
    let api = Api::of(&server);
    let form = "Content-Type: application/x-www-form-urlencoded";
    let send = |path: &str, headers: &str, body: &str| {
        send_request(api.port, "POST", path, headers, body.as_bytes()).expect("a response")
    };
    let signed_in = send("/sign-in", form, "token=a-token-that-only-reads");
    assert_eq!(signed_in.status, 303);
    let cookie = signed_in.header("set-cookie").expect("a cookie").split(';').next();
    let cookie = format!("{form}\nCookie: {}", cookie.expect("a value"));
    assert_eq!(send("/handlers/h/pause", &cookie, "").status, 403);
    let signed_out = send("/sign-out", &cookie, "");
    assert_eq!(signed_out.status, 303);
    let removed = signed_out.header("set-cookie").expect("a cookie");
    assert!(removed.contains("Max-Age=0"), "{removed}");
}
