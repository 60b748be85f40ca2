//! Input that would harm a page that takes it for markup.

use serde_json::json;

use super::{Console, console_scenario};

/// Markup and script, control characters, a right-to-left override, and a long word.
const HOSTILE: &str = "<script>window.hasRun=1</script><img id=injected src=x onerror=window.hasRun=1>\
    \"'`&lt;&#60;</pre></td></table><b>\u{1b}[31m\u{85}\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}\u{5d0}\u{5d1}";

/// The same as a shell's printf writes it.
fn write_hostile(stream: &str) -> String {
    let bytes: String = HOSTILE.bytes().map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{bytes}{}\\n' >&{stream}", "w".repeat(3000))
}

/// The same in a URL, with all bytes but letters and digits encoded.
fn encoded() -> String {
    percent_encode(HOSTILE)
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn an_event_whose_every_field_is_markup_and_script_is_shown_as_text() {
    let script =
        format!("cat > /dev/null; {}; {}; exit 65", write_hostile("1"), write_hostile("2"));
    let scenario = console_scenario()
        .server("trusted_proxies = [\"127.0.0.1\"]")
        .source("a", "path = \"/sites/{site}\"")
        .source("signed", "verify = { scheme = \"bearer\", secret = { file = \"reader.token\" } }")
        .source("typed", "verify = { scheme = \"none\" }\naccept = \"json\"")
        .handler("crm", "", &script)
        .handler("note", "split = '.[0]'\nordering_key = '.[1] | error'", "true");
    let console = Console::start(scenario);
    let server = &console.server;
    let (encoded, word) = (encoded(), "word".repeat(500));
    let header: String = HOSTILE.chars().filter(|c| !c.is_control()).collect();
    let headers = format!(
        "Content-Type: application/json\nX-Forwarded-For: <script>alert(1)</script>\n\
         X-Note: {header}{word}\nX-<b>: 1\nX-`'|~!#$%&*+-.^_: <b>\nAuthorization: Bearer {header}"
    );
    let headers_with_valid_names: String = headers
        .lines()
        .filter(|line| !line.starts_with("X-<b>"))
        .map(|line| format!("{line}\n"))
        .collect();
    let body = json!([HOSTILE, { HOSTILE: HOSTILE }, word]).to_string();
    let path = format!("/sites/{encoded}?{encoded}={encoded}&{word}");
    let response = server.request("POST", &path, &headers_with_valid_names, body.as_bytes());
    let event = response.event_id();
    let raw = format!("{HOSTILE}{word}");
    let raw =
        server.request("POST", "/sites/x", "Content-Type: text/html", raw.as_bytes()).event_id();
    for path in
        [format!("/nothing/{encoded}"), "/hooks/signed".to_owned(), "/hooks/typed".to_owned()]
    {
        for head in [&headers, &headers_with_valid_names] {
            let _ = server.try_request("POST", &path, head, b"<b>");
        }
        let _ = server.try_request("POST", &path, &format!("Content-Type: {header}"), b"{\"<b>");
    }
    server.until("select count(*) from trail where dead > 0", "2");
    server.until("select count(*) > 0 from rejections", "1");
    server
        .open_database()
        .execute(
            "INSERT INTO audit_entries (at, who, via, action, target, jobs, reason)
             VALUES (1790000000000, ?1, 'cli', 'cancel', ?1, 1, ?1)",
            [format!("{HOSTILE}{word}")],
        )
        .expect("an entry");
    server.allow_altered_rows();
    let (code, text) = server.cli_text(&[
        "cancel",
        "--event",
        &raw.to_string(),
        "--yes",
        "--reason",
        &HOSTILE.replace('\n', ""),
    ]);
    assert_eq!(code, Some(0), "{text}");
    let data = json!({
        "paths": [
            format!("/events/{event}"),
            format!("/events/{event}?body=raw"),
            format!("/events/{raw}"),
            format!("/events?text={encoded}&source={encoded}&handler={encoded}"),
            "/failures",
            format!("/failures?handler={encoded}"),
            "/rejections",
            format!("/rejections?detail={encoded}"),
            "/audit",
            format!("/sign-in?next=/events?text={encoded}"),
        ],
        "shown": ["<script>window.hasRun=1</script>", "onerror=window.hasRun=1", "x-`'|~!#$%&*+-.^_"],
    });
    console.run("hostile", "every_field", data);
}
