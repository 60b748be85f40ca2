//! The sealed trail, with the real program.

use rusqlite::Connection;

use crate::support::server::{Server, scenario, stderr, stdout, until};

/// A running server with a handler that prints the event, and this number of finished events.
fn server_with_events(events: usize) -> Server {
    let server = scenario()
        .source(
            "a",
            "verify = { scheme = \"token\", header = \"x-token\", secret = { file = \"s\" } }",
        )
        .handler("h", "", "cat");
    server.write_file("s", "secret");
    let server = server.start();
    (0..events).for_each(|_| assert_eq!(post(&server), 202));
    server.until("select count(*) from trail where succeeded = 1", &events.to_string());
    server
}

fn post(server: &Server) -> u16 {
    server.request("POST", "/hooks/a?q=1", "x-token: secret\r\n", b"bob@example.org").status
}

fn head(server: &Server) -> String {
    let output = server.cli(&["verify", "--head"]);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).trim_end().to_owned()
}

/// Checks the exit code of `verify`, and that its output has this text.
#[track_caller]
fn expect(server: &Server, args: &[&str], code: i32, text: &str) {
    let args = [&["verify"], args].concat();
    let output = server.cli(&args);
    let told = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    assert!(told.contains(text), "{args:?}: {told}");
}

const VERIFIED: &str = "verified, nothing is wrong";

#[test]
fn a_head_stays_in_the_trail_through_restarts_backups_prune_and_erase() {
    let mut server = server_with_events(6);
    assert_eq!(server.request("POST", "/hooks/a", "x-token: wrong\r\n", b"").status, 401);
    server.until("select count(*) from rejections", "1");
    let first = head(&server);
    expect(&server, &["--against", &first], 0, VERIFIED);
    let summary = &server.json_lines(&["verify", "--head", "--json"])[0];
    assert_eq!(summary["head"], *first);
    let counts = [&summary["events"], &summary["outcomes"], &summary["rejections"]];
    assert_eq!(counts, [6, 6, 1]);
    assert!(summary["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{summary}");

    server.kill();
    server.start();
    post(&server);
    server.until("select count(*) from trail where succeeded = 1", "7");
    assert!(server.cli(&["backup", "copy.db"]).status.success());
    expect(&server, &["copy.db", "--against", &first], 0, VERIFIED);
    assert!(server.cli(&["erase", "3", "--yes"]).status.success());
    assert_eq!(server.value("select coalesce(salt, 'none') from events where id = 3"), "none");
    expect(&server, &["--against", &first], 0, VERIFIED);
    post(&server);
    server.until("select count(*) from trail where succeeded = 1", "8");
    let second = head(&server);
    let pruned = server.cli(&["prune", "--before", "0s", "--yes"]);
    assert!(pruned.status.success(), "{}", stderr(&pruned));
    assert_eq!(server.value("select count(*) from events"), "0");
    assert_eq!(server.value("select count(*) from attempts"), "0");
    expect(&server, &["copy.db", "--against", &second], 1, "there are only ");
    let third = head(&server);
    // Those of the events are gone; the rejection and the removal of the others remain.
    assert_eq!(server.value("select count(*) from seals"), "1");
    post(&server);
    expect(&server, &["--against", &third], 0, VERIFIED);
}

#[test]
fn what_someone_changed_in_the_database_is_named() {
    let mut server = server_with_events(3);
    let first = head(&server);
    server.stop();
    let change = |sql: &str| server.open_database().execute_batch(sql).expect("a change");
    change("update events set body = 'alice@example.org' where id = 2");
    expect(&server, &[], 1, "a row was changed after it was sealed: event 2\n");
    // The digest of the changed row cannot be put into its seal, either.
    change(
        "update seals set entries = substr(entries, 1, 12) || randomblob(16) where last_event = 2",
    );
    expect(&server, &[], 1, "the seals are not those of the head: ");
    let forged = first.replace(|digit: char| digit.is_ascii_lowercase(), "0");
    expect(&server, &["--against", &forged], 1, "the trail does not contain a head: ");
    let lines = server.cli(&["verify", "--json"]);
    let line: serde_json::Value =
        serde_json::from_str(stdout(&lines).lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["rows"][0], "event 2");
}

#[test]
fn a_head_of_a_lost_database_is_not_in_its_backup() {
    let mut server = server_with_events(2);
    let backed_up = head(&server);
    assert!(server.cli(&["backup", "copy.db"]).status.success());
    post(&server);
    server.until("select count(*) from trail where succeeded = 1", "3");
    let lost = head(&server);
    server.stop();
    assert!(server.cli(&["restore", "copy.db", "--force"]).status.success());
    expect(&server, &["--against", &backed_up], 0, VERIFIED);
    expect(&server, &["--against", &lost], 1, "or was restored");
    server.start();
    post(&server);
    server.until("select count(*) from trail where succeeded = 1", "3");
    expect(&server, &["--against", &backed_up], 0, VERIFIED);
}

#[test]
fn the_count_of_repeated_rejections_is_sealed_at_the_next_start() {
    let mut server = server_with_events(1);
    for _ in 0..130 {
        server.request("POST", "/hooks/a", "x-token: wrong\r\n", b"");
    }
    server.until("select sum(count) from rejections", "130");
    server.kill();
    server.start();
    let open = "select count(*) from rejected_requests where count > 1 and count_seal is null";
    server.until(open, "0");
    expect(&server, &[], 0, VERIFIED);
    server.stop();
    let conn = Connection::open(server.path().join("t.db")).expect("a database");
    let changed = conn.execute("update rejected_requests set count = 2 where count > 1", []);
    assert_eq!(changed, Ok(1));
    drop(conn);
    expect(&server, &[], 1, "a row was changed after it was sealed: count of rejection 100\n");
}

#[test]
fn wrong_usage_of_heads_is_an_error() {
    let server = server_with_events(1);
    let error =
        "not a line of `verify --head`: expected a number, a colon and 64 hexadecimal digits";
    for text in ["", "7", "7:abc", "head.txt"] {
        expect(&server, &["--against", text], 2, error);
    }
    expect(&server, &["--head", "--against", &head(&server)], 2, "cannot be used with");
}

#[test]
fn the_trail_can_be_verified_while_events_arrive_and_are_removed() {
    let server = server_with_events(5);
    let first = head(&server);
    std::thread::scope(|scope| {
        let posts = scope.spawn(|| (0..300).for_each(|_| assert_eq!(post(&server), 202)));
        until("all events are stored", || {
            server.cli(&["prune", "--before", "0s", "--yes"]);
            expect(&server, &[], 0, VERIFIED);
            posts.is_finished()
        });
    });
    assert!(head(&server) != first);
}
