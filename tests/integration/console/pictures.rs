//! The pictures of the console in README.md and docs/.

use serde_json::json;

use super::{Console, console_scenario, repository};

/// The largest picture.
const MAX_PICTURE_BYTES: u64 = 150 << 10;

/// A server with plausible events.
fn busy_console() -> Console {
    let crm = r#"read -r body
email=$(echo "$body" | cut -d'"' -f8)
case $HOOKTRAIL_EVENT in
*[37]) echo "looking up $email"; echo "contact $((5100 + HOOKTRAIL_EVENT)) has no account" >&2; exit 1 ;;
esac
echo "updated $email""#;
    let retry = "retry = { max_attempts = 3, initial_delay = \"20ms\", max_delay = \"40ms\" }\nbreaker = { threshold = 0 }";
    let erp = "retry = { initial_delay = \"2h\", max_delay = \"2h\", jitter = 0 }\nbreaker = { threshold = 0 }";
    let scenario = console_scenario()
        .source("paminga", "")
        .source("shop", "verify = { scheme = \"bearer\", secret = { file = \"reader.token\" } }")
        .handler("crm", retry, crm)
        .handler_source("crm", "paminga")
        .handler("newsletter", "", "cat > /dev/null; echo subscribed")
        .handler_source("newsletter", "paminga")
        .handler("erp", erp, "cat > /dev/null; [ $((HOOKTRAIL_EVENT % 10)) = 4 ] || exit 0; echo connection refused >&2; exit 75")
        .handler_source("erp", "shop")
        .handler("invoices", "", "cat > /dev/null; echo invoice written")
        .handler_source("invoices", "shop");
    Console::start(scenario)
}

/// Adds counts of earlier minutes, so that the lines of the overview have a course.
fn spread_counts(console: &Console) {
    let conn = console.server.open_database();
    conn.execute_batch(
        "WITH RECURSIVE ago (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM ago WHERE n < 59)
         INSERT OR IGNORE INTO minute_counts
         SELECT c.minute - n, c.source, c.handler, (n * 7 + n * n) % 11 * (c.events > 0), 0, (n % 13 = 5) * (c.rejections > 0),
           (n * 5 + n * n) % 9 * (c.succeeded > 0), (n % 17 = 3) * (c.unsuccessful > 0),
           ((n * 5 + n * n) % 9 + (n % 17 = 3)) * (12 + n * n % 7) * (c.handler > 0), NULL
         FROM ago, (SELECT * FROM minute_counts GROUP BY source, handler) c",
    )
    .expect("counts");
}

fn send_events(console: &Console) {
    const NAMES: [&str; 8] =
        ["ada", "alan", "barbara", "edsger", "grace", "katherine", "ken", "margaret"];
    let authorization = "Content-Type: application/json\nAuthorization: Bearer a-token-that-reads";
    let server = &console.server;
    for number in 0..48_usize {
        let name = NAMES[number % NAMES.len()];
        if number % 3 == 2 {
            let order = json!({ "order": 1200 + number, "total": "49.90", "currency": "EUR", "customer": format!("{name}@example.com") });
            let response =
                server.request("POST", "/hooks/shop", authorization, order.to_string().as_bytes());
            assert_eq!(response.status, 202, "{response:?}");
        } else {
            console.post("/hooks/paminga", format!(
                r#"{{"form":"newsletter","email":"{name}@example.com","first_name":"{name}","form_completion_id":{}}}"#,
                7300 + number
            ));
        }
    }
    for _ in 0..3 {
        assert_eq!(server.post("/hooks/shop", "{}").status, 401);
    }
    spread_counts(console);
    server
        .until("select count(*) from jobs where state = 2 or (state = 1 and due_at is null)", "0");
}

#[test]
#[ignore = "needs the browser that tests/run installs"]
fn the_pictures_of_the_pages_can_be_made() {
    let console = busy_console();
    send_events(&console);
    let event = console.server.value("select max(event) from trail where dead = 1");
    let folder = match std::env::var_os("HOOKTRAIL_UPDATE_DOCS") {
        Some(_) => repository().join("docs/images"),
        None => console.server.path().join("images"),
    };
    let pictures = json!([
        { "name": "overview", "path": "/", "schemes": ["light", "dark"] },
        { "name": "events", "path": "/events", "schemes": ["light"] },
        { "name": "event", "path": format!("/events/{event}"), "schemes": ["light"] },
        { "name": "failures", "path": "/failures", "schemes": ["light"] },
    ]);
    console.run("pictures", "save", json!({ "images": folder, "pictures": pictures }));
    for name in ["overview", "overview-dark", "events", "event", "failures"] {
        let size = std::fs::metadata(folder.join(format!("{name}.png"))).expect(name).len();
        assert!(size <= MAX_PICTURE_BYTES, "{name}: {size} bytes");
    }
}
