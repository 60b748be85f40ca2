//! `backup`, `restore` and `verify`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

use crate::alerts::with_alert_handler;
use crate::support::server::{HOOKTRAIL, Server, scenario, stderr, stdout, until};

/// A running server with a handler that succeeds, and this number of finished events.
fn server_with_events(events: usize) -> Server {
    let server = scenario().source("a", "").handler("h", "", "cat").start();
    (0..events).for_each(|_| assert_eq!(server.post("/hooks/a", "x").status, 202));
    server.until("select count(*) from trail where succeeded = 1", &events.to_string());
    server
}

#[track_caller]
fn succeeds(server: &Server, args: &[&str]) -> String {
    let output = server.cli(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

#[track_caller]
fn fails(server: &Server, args: &[&str], code: i32, text: &str) {
    let output = server.cli(args);
    let told = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    assert!(told.contains(text), "{args:?}: {told}");
}

/// The names of the files in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn count_events(database: &Path) -> i64 {
    let conn = Connection::open(database).expect("a database");
    conn.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).expect("a count")
}

/// Damages the first page of the table `events` in a copy of the database `t.db` of a folder.
fn with_damaged_events(mut copy: Vec<u8>, folder: &Path) -> Vec<u8> {
    let conn = Connection::open(folder.join("t.db")).expect("a database");
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'events'";
    let page: i64 = conn.query_row(sql, [], |row| row.get(0)).expect("a page");
    let page = usize::try_from(page).unwrap();
    copy[(page - 1) * 4096..page * 4096].fill(0x55);
    copy
}

#[test]
fn a_backup_beside_a_busy_server_ends_and_holds_each_event_accepted_before_it() {
    let server = server_with_events(3);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                assert_eq!(server.post("/hooks/a", vec![b'x'; 20_000]).status, 202);
            }
        });
        until("more events arrive", || server.event_ids().len() > 20);
        let before = *server.event_ids().last().unwrap();
        let told = succeeds(&server, &["backup", "copy.db", "--json"]);
        is_done.store(true, Ordering::Relaxed);
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let last = told["last_event"].as_i64().unwrap();
        assert!(last >= before, "{told} {before}");
        assert_eq!(count_events(&server.path().join("copy.db")), last);
    });
    // It needs no file beside it, and is read by a program that may not write.
    assert!(!names(server.path()).iter().any(|name| name.starts_with("copy.db-")));
    succeeds(&server, &["verify", "copy.db"]);
    succeeds(&server, &["verify"]);
}

#[test]
fn a_backup_replaces_a_file_only_with_force_and_never_one_of_a_server() {
    let server = server_with_events(1);
    server.write_file("copy.db", "notes");
    fails(
        &server,
        &["backup", "copy.db"],
        1,
        "copy.db: exists: name another file, or give --force",
    );
    assert_eq!(server.read_file("copy.db"), "notes");
    succeeds(&server, &["backup", "copy.db", "--force"]);
    assert_eq!(count_events(&server.path().join("copy.db")), 1);
    let own = "is a file of the database itself";
    for name in ["t.db", "t.db-wal", "t.db-shm", "t.db.lock", "t.db-journal", "./t.db"] {
        fails(&server, &["backup", name, "--force"], 1, own);
    }
    fs::hard_link(server.path().join("t.db"), server.path().join("link.db")).unwrap();
    fails(&server, &["backup", "link.db", "--force"], 1, own);
    let other = server_with_events(2);
    let foreign = other.path().join("t.db").display().to_string();
    let text = "is the database of a running server";
    fails(&server, &["backup", &foreign, "--force"], 1, text);
    fails(&server, &["backup", "missing/copy.db"], 1, "missing");
    fails(&server, &["backup", ".", "--force"], 1, "is no regular file");
    fails(&server, &["backup"], 2, "FILE");
    fails(&server, &["backup", "copy.db", "--keep", "2"], 2, "cannot be used with");
    fails(&server, &["backup", "--to", "b", "--keep", "0"], 2, "0");
    assert_eq!(server.post("/hooks/a", "x").status, 202);
}

#[test]
fn the_outputs_have_the_form_that_the_documentation_shows() {
    let mut server = server_with_events(3);
    let path = fs::canonicalize(server.path()).unwrap().display().to_string();
    let told = succeeds(&server, &["backup", "copy.db"]);
    let kib = fs::metadata(server.path().join("copy.db")).unwrap().len() / 1024;
    assert_eq!(told, format!("copy.db: {kib} KiB, up to event 3, read back without an error\n"));
    server.stop();
    assert_eq!(succeeds(&server, &["verify", "copy.db"]), "copy.db: verified, nothing is wrong\n");
    let verified = format!("{path}/t.db: verified, nothing is wrong\n");
    assert_eq!(succeeds(&server, &["verify"]), verified);
    let told = succeeds(&server, &["restore", "copy.db", "--force"]);
    let lines: Vec<&str> = told.lines().collect();
    let restored = format!("{path}/t.db: restored up to event 3; the next one is 1000000004");
    assert_eq!(lines[0], restored);
    assert!(lines[1].starts_with(&format!("{path}/t.replaced-")), "{told}");
    let kept = "Z.db: the earlier database; remove it when you no longer need it";
    assert!(lines[1].ends_with(kept), "{told}");
}

#[test]
fn a_failed_backup_raises_an_alert() {
    let server =
        with_alert_handler("cat >> alerts.txt", "when = '.type == \"backup.failed\"'").start();
    server.write_file("folder", "a file");
    fails(&server, &["backup", "folder/copy.db"], 1, "folder");
    until("the alert arrives", || server.path().join("alerts.txt").exists());
    server.until("select group_concat(outcome) from outcomes", "succeeded");
    let alert: serde_json::Value = serde_json::from_str(&server.read_file("alerts.txt")).unwrap();
    assert!(alert["detail"].as_str().unwrap().starts_with("folder/copy.db: "), "{alert}");
}

#[test]
fn a_folder_keeps_the_newest_backups_and_all_other_files() {
    let server = server_with_events(1);
    let folder = server.path().join("backups");
    fs::create_dir(&folder).unwrap();
    let others = ["t-20260101T000000Z.db.gz", "t-notes.db", "t-20260104T000000Z.db", "t.db"];
    // The clock was wrong once.
    let old = ["t-20260101T000000Z.db", "t-20260102T000000Z.db", "t-20990101T000000Z.db"];
    let stale = "t-20260102T000000Z.db.hooktrail.part";
    for name in others.iter().chain(&[stale]) {
        fs::write(folder.join(name), "no backup of this database").unwrap();
    }
    succeeds(&server, &["backup", "copy.db"]);
    for name in old {
        fs::copy(server.path().join("copy.db"), folder.join(name)).unwrap();
    }
    let foreign = "t-20260105T000000Z.db";
    let other = server_with_events(1);
    succeeds(&other, &["backup", &folder.join(foreign).display().to_string()]);
    let two_days = std::time::Duration::from_secs(2 * 24 * 60 * 60);
    let part = fs::File::options().write(true).open(folder.join(stale)).unwrap();
    part.set_modified(std::time::SystemTime::now() - two_days).unwrap();
    let told = succeeds(&server, &["backup", "--to", "backups", "--keep", "2", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let file = Path::new(told["file"].as_str().unwrap()).file_name().unwrap().to_str().unwrap();
    let mut expected: Vec<&str> = others.iter().copied().chain([old[2], foreign, file]).collect();
    expected.sort_unstable();
    assert_eq!(names(&folder), expected);
    assert_eq!(told["removed"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(count_events(&folder.join(file)), 1);
}

#[test]
fn a_restored_database_gives_no_id_twice_and_keeps_the_earlier_one() {
    let mut server = server_with_events(3);
    succeeds(&server, &["backup", "copy.db"]);
    (0..2).for_each(|_| assert_eq!(server.post("/hooks/a", "lost").status, 202));
    fails(&server, &["restore", "copy.db", "--force"], 75, "one server owns one file");
    server.stop();
    fails(&server, &["restore", "copy.db"], 1, "exists: --force replaces it");
    let told = succeeds(&server, &["restore", "copy.db", "--force", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["last_event"], &told["next_event"]), (&3.into(), &1_000_000_004.into()));
    assert_eq!(count_events(Path::new(told["replaced"].as_str().unwrap())), 5);
    assert_eq!(server.event_ids(), [1, 2, 3]);
    server.start();
    assert_eq!(server.post("/hooks/a", "x").event_id(), 1_000_000_004);
    let last = "select job || ' ' || id from outcomes order by id desc limit 1";
    server.until(last, "1000000004 1000000004");
    // The next restore of the same backup gives other ids.
    server.stop();
    succeeds(&server, &["restore", "copy.db", "--force"]);
    succeeds(&server, &["verify"]);
    let replay = "select replay from counters";
    assert!(server.value(replay).parse::<i64>().unwrap() > 1_000_000_000);
    server.start();
    assert_eq!(server.post("/hooks/a", "x").event_id(), 2_000_000_005);
}

#[test]
fn journals_of_a_database_that_was_moved_away_do_not_reach_the_restored_one() {
    let mut server = server_with_events(3);
    succeeds(&server, &["backup", "copy.db"]);
    server.kill();
    fs::rename(server.path().join("t.db"), server.path().join("moved.db")).unwrap();
    let wal = fs::read(server.path().join("t.db-wal")).unwrap();
    fs::write(server.path().join("t.db-journal"), "a journal").unwrap();
    succeeds(&server, &["restore", "copy.db"]);
    succeeds(&server, &["verify"]);
    server.start();
    assert_eq!(server.event_ids(), [1, 2, 3]);
    let kept: Vec<String> =
        names(server.path()).into_iter().filter(|name| name.contains("replaced")).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept[0].ends_with(".db-journal"), "{kept:?}");
    assert_eq!(fs::read(server.path().join(&kept[1])).unwrap(), wal);
}

#[test]
fn a_backup_follows_a_symbolic_link_and_a_copy_in_the_place_of_the_database_can_be_named() {
    let mut server = server_with_events(1);
    fs::create_dir(server.path().join("disk")).unwrap();
    std::os::unix::fs::symlink("disk/copy.db", server.path().join("link.db")).unwrap();
    succeeds(&server, &["backup", "link.db"]);
    assert_eq!(names(&server.path().join("disk")), ["copy.db"]);
    server.stop();
    fs::copy(server.path().join("link.db"), server.path().join("t.db")).unwrap();
    fails(&server, &["list"], 1, "start the server once");
    succeeds(&server, &["verify", "t.db"]);
    server.start();
    assert_eq!(server.event_ids(), [1]);
}

#[test]
fn a_database_that_is_gone_is_restored_also_beside_a_rescued_one() {
    let mut server = server_with_events(2);
    succeeds(&server, &["backup", "copy.db"]);
    server.kill();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(server.path().join(format!("t.db{suffix}")));
    }
    fs::write(server.path().join("t.rescued-20260101T000000Z.db"), "").unwrap();
    succeeds(&server, &["restore", "copy.db"]);
    server.start();
    assert_eq!(server.event_ids(), [1, 2]);
}

#[test]
fn a_damaged_cut_newer_or_foreign_backup_is_rejected_and_the_database_stays() {
    let mut server = server_with_events(2);
    succeeds(&server, &["backup", "copy.db"]);
    server.stop();
    let folder = server.path().to_owned();
    let copy = fs::read(folder.join("copy.db")).unwrap();
    fs::write(folder.join("cut.db"), &copy[..copy.len() / 2]).unwrap();
    fs::write(folder.join("damaged.db"), with_damaged_events(copy.clone(), &folder)).unwrap();
    fs::write(folder.join("empty.db"), "").unwrap();
    fs::write(folder.join("text.db"), "a".repeat(5000)).unwrap();
    fs::copy(folder.join("copy.db"), folder.join("newer.db")).unwrap();
    let change = |name: &str, sql: &str| {
        Connection::open(folder.join(name)).unwrap().execute_batch(sql).unwrap();
    };
    change("newer.db", "PRAGMA user_version = 900");
    change("other.db", "CREATE TABLE t (x)");
    for (name, text) in [
        ("cut.db", "is no complete SQLite database"),
        ("damaged.db", "is damaged"),
        ("empty.db", "is no SQLite database"),
        ("text.db", "is no complete SQLite database"),
        ("newer.db", "is of schema version 900, and this program knows up to"),
        ("other.db", "is a database of another program"),
        ("missing.db", "does not exist"),
        (".", "is no SQLite database"),
        ("t.db", "is the database itself"),
    ] {
        fails(&server, &["restore", name, "--force"], 1, text);
    }
    assert_eq!(server.event_ids(), [1, 2]);
    let names = names(&folder);
    assert!(
        !names.iter().any(|name| name.contains("replaced") || name.contains("part")),
        "{names:?}"
    );
    server.start();
    assert_eq!(server.post("/hooks/a", "x").event_id(), 3);
}

/// Runs a command that is killed at the `count`th call of a system call. Returns whether it was killed.
fn run_until_killed(server: &Server, args: &[&str], call: &str, count: usize) -> bool {
    let output: Output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=SIGKILL:when={count}"), HOOKTRAIL])
        .args(args)
        .current_dir(server.path())
        .stdin(Stdio::null())
        .output()
        .expect("strace, which tests/run installs");
    assert!(output.status.success() || output.status.code().is_none(), "{}", stderr(&output));
    !output.status.success()
}

#[test]
fn a_killed_restore_leaves_the_earlier_database_or_the_restored_one_complete() {
    let mut server = server_with_events(3);
    succeeds(&server, &["backup", "copy.db"]);
    assert_eq!(server.post("/hooks/a", "newer").status, 202);
    server.kill();
    let (folder, saved) = (server.path().to_owned(), server.path().join("saved"));
    let database = ["t.db", "t.db-wal", "t.db-shm"];
    fs::create_dir(&saved).unwrap();
    for name in database {
        fs::copy(folder.join(name), saved.join(name)).unwrap();
    }
    let mut kills = 0;
    for call in ["fsync,fdatasync", "unlink", "linkat,link", "rename,renameat,renameat2"] {
        for count in 1.. {
            for name in database {
                fs::copy(saved.join(name), folder.join(name)).unwrap();
            }
            if !run_until_killed(&server, &["restore", "copy.db", "--force"], call, count) {
                break;
            }
            kills += 1;
            let events = count_events(&folder.join("t.db"));
            assert!(events == 3 || events == 4, "killed at {call} {count}: {events} events");
            succeeds(&server, &["verify"]);
        }
    }
    assert!(kills >= 8, "only {kills} places");
    succeeds(&server, &["restore", "copy.db", "--force"]);
    server.start();
    assert_eq!(server.event_ids(), [1, 2, 3]);
}

#[test]
fn a_killed_backup_leaves_no_file_with_the_name_of_a_backup() {
    let server = server_with_events(3);
    let folder = server.path().join("backups");
    for count in 1..=3 {
        let _ = fs::remove_dir_all(&folder);
        let args = ["backup", "--to", "backups", "--keep", "1"];
        if !run_until_killed(&server, &args, "fsync,fdatasync", count) {
            break;
        }
        let finished = names(&folder).into_iter().filter(|name| name.ends_with(".db"));
        for name in finished {
            succeeds(&server, &["verify", &format!("backups/{name}")]);
        }
    }
    succeeds(&server, &["backup", "--to", "backups", "--keep", "1"]);
    let backups = names(&folder).into_iter().filter(|name| name.ends_with(".db"));
    assert_eq!(backups.count(), 1);
}

#[test]
#[ignore = "needs a machine that allows mounts"]
fn a_backup_on_a_full_disk_fails_and_leaves_no_file() {
    let server = server_with_events(1);
    for _ in 0..60 {
        assert_eq!(server.post("/hooks/a", vec![b'x'; 100_000]).status, 202);
    }
    let small = "mkdir small && mount -t tmpfs -o size=3m none small && \
        { \"$0\" backup small/copy.db; code=$?; ls small; exit $code; }";
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", small, HOOKTRAIL])
        .current_dir(server.path())
        .output()
        .expect("unshare");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("3 MiB free: free some space"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn verify_names_what_contradicts_the_promises() {
    let mut server = server_with_events(6);
    server.stop();
    assert_eq!(succeeds(&server, &["verify", "--json"]), "");
    let undamaged = fs::read(server.path().join("t.db")).unwrap();
    for (sql, problem) in [
        ("DELETE FROM jobs WHERE id = 2", "an event lacks one of its jobs: event 2"),
        ("DELETE FROM events WHERE id = 2", "a job belongs to no event: job 2"),
        (
            "DELETE FROM attempts WHERE job = 3",
            "an attempt has no outcome, or an outcome has no attempt: job 3",
        ),
        (
            "UPDATE attempts SET outcome = 'failed' WHERE job = 4",
            "a job succeeded without a successful attempt",
        ),
        (
            "UPDATE attempts SET job = 99 WHERE id = 5",
            "an outcome belongs to no attempt of a job: outcome 5",
        ),
        ("UPDATE counters SET event = 1", "an id was given that the counters do not know: event 6"),
        ("UPDATE jobs SET handler = 7 WHERE id = 1", "a source or handler has no name: job 1"),
        ("INSERT INTO items VALUES (1, 'x')", "an output of `split` belongs to no job"),
        (
            "INSERT INTO deferred_events VALUES (50, 1, '[]', 1, NULL)",
            "a row belongs to no event: deferred event 50",
        ),
        ("DELETE FROM event_blocks", "the block index lacks a row"),
        ("DELETE FROM jobs", "event 1, event 2, event 3, event 4, event 5 and 1 more"),
    ] {
        fs::write(server.path().join("t.db"), &undamaged).unwrap();
        let _ = fs::remove_file(server.path().join("t.db-wal"));
        let _ = fs::remove_file(server.path().join("t.db-shm"));
        Connection::open(server.path().join("t.db")).unwrap().execute_batch(sql).unwrap();
        fails(&server, &["verify"], 1, problem);
    }
    fs::write(server.path().join("t.db"), &undamaged).unwrap();
    let damaged = with_damaged_events(undamaged, server.path());
    fs::write(server.path().join("damaged.db"), &damaged).unwrap();
    fails(&server, &["verify", "damaged.db"], 1, "SQLite finds the file damaged: ");
}

/// Moves the newest backup into the past, while no server runs: the database clock goes on meanwhile.
fn age_backup(server: &Server, hours: i64) {
    let ms = hours * 3_600_000;
    let sql = format!(
        "update meta set value = value - {ms} where name in ('backup_made_at', 'backup_alert_at')"
    );
    server.open_database().execute_batch(&sql).expect("an older backup");
}

/// The details of the alerts that the handler got, none of which stands for two.
fn alert_details(server: &Server) -> Vec<String> {
    let alerts = server.read_file("alerts.txt");
    let detail = |line: &str| {
        let alert: serde_json::Value = serde_json::from_str(line).expect("an alert");
        assert_eq!(alert["count"], 1, "{alert}");
        alert["detail"].as_str().expect("a detail").to_owned()
    };
    alerts.lines().map(detail).collect()
}

fn server_with_overdue_alerts() -> Server {
    let script = "{ cat; echo; } >> alerts.txt";
    with_alert_handler(script, "when = '.type == \"backup.failed\"'").start()
}

const EVERY_DAY: [&str; 7] = ["backup", "--to", "b", "--keep", "2", "--every", "1d"];

#[test]
fn an_overdue_backup_is_one_alert_for_each_period_also_over_restarts() {
    let mut server = server_with_overdue_alerts();
    succeeds(&server, &EVERY_DAY);
    server.stop();
    // Late, but not by half a period.
    age_backup(&server, 35);
    server.start();
    assert_eq!(server.cli(&["status"]).status.code(), Some(0));
    server.stop();
    age_backup(&server, 1);
    for _ in 0..2 {
        server.start();
        server.until("select count(*) from outcomes where outcome = 'succeeded'", "1");
        let status = server.cli(&["status"]);
        assert_eq!(status.status.code(), Some(1));
        let problem = stdout(&status);
        assert!(problem.contains("problem     no backup since 20"), "{problem}");
        assert!(problem.contains("; expected every 1d\n"), "{problem}");
        server.stop();
    }
    // The next period without a backup. Alerts of one kind are a minute apart.
    age_backup(&server, 24);
    server.open_database().execute_batch("update alerts set emitted_at = 0").unwrap();
    server.start();
    server.until("select count(*) from outcomes where outcome = 'succeeded'", "2");
    let details = alert_details(&server);
    assert_eq!(details.len(), 2);
    for detail in &details {
        assert!(detail.starts_with("no backup since 20"), "{detail}");
        assert!(detail.ends_with("Z; expected every 1d"), "{detail}");
    }
    // A backup ends the overdue period.
    succeeds(&server, &["backup", "--to", "c"]);
    assert_eq!(server.cli(&["status"]).status.code(), Some(0));
    server.stop();
    server.open_database().execute_batch("update alerts set emitted_at = 0").unwrap();
    age_backup(&server, 35);
    server.start();
    succeeds(&server, &["backup", "--to", "d", "--every", "off"]);
    server.stop();
    age_backup(&server, 1_000);
    server.start();
    assert_eq!(server.cli(&["status"]).status.code(), Some(0));
    assert_eq!(server.value("select count(*) from meta where name like 'backup%'"), "0");
    assert_eq!(alert_details(&server).len(), 2);
}

#[test]
fn a_failed_backup_is_expected_again_and_a_single_file_is_no_expected_one() {
    let server = server_with_events(1);
    let made_at = "select value from meta where name = 'backup_made_at'";
    succeeds(&server, &["backup", "first.db"]);
    assert_eq!(server.value(made_at), "");
    server.write_file("folder", "a file");
    let args = ["backup", "--to", "folder", "--every", "1h 30m"];
    fails(&server, &args, 1, "folder");
    let since = server.value(made_at);
    assert_ne!(since, "");
    assert_eq!(server.value("select value from meta where name = 'backup_period_ms'"), "5400000");
    succeeds(&server, &["backup", "second.db"]);
    assert_eq!(server.value(made_at), since);
    succeeds(&server, &EVERY_DAY);
    assert!(server.value(made_at).parse::<i64>().unwrap() > since.parse().unwrap());
    for every in ["0s", "30s", "1 day", "never", "40000d"] {
        fails(&server, &["backup", "--to", "b", "--every", every], 2, "--every");
    }
    fails(&server, &["backup", "copy.db", "--every", "1d"], 2, "cannot be used with");
}

#[test]
fn a_restored_database_expects_backups_from_its_restore_on() {
    let mut server = server_with_events(1);
    succeeds(&server, &["backup", "--to", "b", "--every", "1d"]);
    let backup = format!("b/{}", names(&server.path().join("b"))[0]);
    server.stop();
    // The backup of long ago has the schedule of its time.
    let conn = Connection::open(server.path().join(&backup)).unwrap();
    conn.execute_batch(
        "update meta set value = 1 where name in ('backup_made_at', 'backup_alert_at')",
    )
    .unwrap();
    conn.close().unwrap();
    succeeds(&server, &["restore", &backup, "--force"]);
    server.start();
    assert_eq!(server.cli(&["status"]).status.code(), Some(0));
    server.stop();
    age_backup(&server, 36);
    server.start();
    assert_eq!(server.cli(&["status"]).status.code(), Some(1));
}
