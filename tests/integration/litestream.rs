//! Litestream replicates the database of a running server to a folder, with the shipped configuration.
//! `tests/run` installs the version of tests/litestream/, and runs these tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use rustix::process::Signal;

use crate::support::server::{
    HOOKTRAIL, RunningCommand, Server, is_alive, scenario, send_signal, stderr, stdout, until,
};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of the `litestream` program.
fn program_folder() -> PathBuf {
    let folder = repository().join("target/test-litestream/bin");
    assert!(folder.exists(), "no {}: tests/run installs it", folder.display());
    folder
}

/// A server, and the configuration with which Litestream replicates its database.
struct Replicated {
    server: Server,
    config: PathBuf,
    database: PathBuf,
}

impl Replicated {
    fn new() -> Self {
        let server = scenario().source("a", "").handler("h", "", "true").start();
        let text = fs::read_to_string(repository().join("litestream/litestream.yml")).unwrap();
        let (database, config) = (server.path().join("t.db"), server.path().join("litestream.yml"));
        let replica = format!("file://{}", server.path().join("replica").display());
        let changes = [
            ("/var/lib/hooktrail/hooktrail.db", &*database.display().to_string()),
            ("s3://your-bucket/hooktrail", &replica),
        ];
        let changed = changes.iter().fold(text, |text, (shipped, own)| {
            assert!(text.contains(shipped), "{shipped}: {text}");
            text.replace(shipped, own)
        });
        fs::write(&config, changed).unwrap();
        Self { server, config, database }
    }

    fn litestream(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program_folder().join("litestream"));
        command.args(args).arg("-config").arg(&self.config).stdin(Stdio::null());
        command
    }

    fn start_litestream(&self) -> RunningCommand {
        let log = fs::File::create(self.server.path().join("litestream.log")).unwrap();
        let mut command = self.litestream(&["replicate"]);
        RunningCommand(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    /// Restores the replica to a file.
    fn restore_replica(&self, copy: &Path) {
        let mut command = self.litestream(&["restore"]);
        let output = command.arg("-o").arg(copy).arg(&self.database).output().unwrap();
        assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    }

    fn drill(&self, options: &[&str], max_lag_seconds: &str) -> Output {
        let folders = [&program_folder(), Path::new(HOOKTRAIL).parent().unwrap()];
        let folders = folders.map(|folder| folder.display().to_string()).join(":");
        Command::new(repository().join("litestream/restore-drill"))
            .args(options)
            .args([&self.config, &self.database])
            .env("PATH", format!("{folders}:{}", std::env::var("PATH").unwrap()))
            .env("HOOKTRAIL_CONFIG", self.server.path().join("config.toml"))
            .env("MAX_LAG_SECONDS", max_lag_seconds)
            .env("TMPDIR", self.server.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Posts an event, and waits until it is in the replica.
    fn replicate_event(&self) {
        let event = self.server.post("/hooks/a", "x").event_id();
        self.until_replicated(event);
    }

    /// Waits until the drill succeeds and finds this event in the replica.
    fn until_replicated(&self, event: i64) {
        until(&format!("the replica has event {event}"), || {
            let output = self.drill(&[], "60");
            output.status.success() && newest_event(&output) >= event
        });
    }

    /// Restores the replica in the place of the database.
    fn restore(&self) {
        self.restore_replica(&self.server.path().join("copy.db"));
        for args in [["verify", "copy.db"], ["restore", "copy.db"]] {
            let output = self.server.cli(&args);
            assert!(output.status.success(), "{args:?}: {}{}", stdout(&output), stderr(&output));
        }
    }

    /// Loses the machine: no process runs any longer, and the database is gone.
    fn lose_machine(&mut self, litestream: RunningCommand) {
        self.server.kill();
        drop(litestream);
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.server.path().join(format!("t.db{suffix}")));
        }
        fs::remove_dir_all(self.server.path().join(".t.db-litestream")).unwrap();
    }
}

/// The newest event that a drill found in the replica.
fn newest_event(output: &Output) -> i64 {
    let text = stdout(output);
    let line = text.lines().find_map(|line| line.strip_prefix("newest event: "));
    let number = line.and_then(|line| line.split(',').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
#[ignore = "needs Litestream, which tests/run installs"]
fn a_database_lost_under_load_is_restored_with_each_event_replicated_before() {
    let mut replicated = Replicated::new();
    let litestream = replicated.start_litestream();
    let accepted: Mutex<Vec<i64>> = Mutex::default();
    let mut replicated_events = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let post = || replicated.server.try_request("POST", "/hooks/a", "", b"x");
                while let Some(response) = post().filter(|response| response.status == 202) {
                    accepted.lock().unwrap().push(response.event_id());
                }
            });
        }
        until("some events are accepted", || accepted.lock().unwrap().len() > 100);
        replicated_events.clone_from(&accepted.lock().unwrap());
        replicated.until_replicated(*replicated_events.iter().max().unwrap());
        send_signal(replicated.server.pid(), Signal::KILL).unwrap();
    });
    replicated.lose_machine(litestream);
    let drill = replicated.drill(&["--replica-only"], "60");
    assert!(drill.status.success(), "{}", stderr(&drill));
    replicated.restore();
    let restored = replicated.server.event_ids();
    replicated_events.retain(|event| restored.binary_search(event).is_err());
    assert_eq!(replicated_events, Vec::<i64>::new());
    replicated.server.start();
    let next = replicated.server.post("/hooks/a", "x").event_id();
    assert_eq!(next, restored.last().unwrap() + 1_000_000_001);
    assert!(accepted.lock().unwrap().iter().all(|&event| event < next));
}

#[test]
#[ignore = "needs Litestream, which tests/run installs"]
fn litestream_goes_on_with_the_same_replica_on_another_machine() {
    let mut replicated = Replicated::new();
    let litestream = replicated.start_litestream();
    replicated.replicate_event();
    replicated.lose_machine(litestream);
    replicated.restore();
    replicated.server.start();
    let _litestream = replicated.start_litestream();
    replicated.replicate_event();
}

#[test]
#[ignore = "needs Litestream, which tests/run installs"]
fn litestream_goes_on_after_a_restore_beside_its_own_files() {
    let mut replicated = Replicated::new();
    let litestream = replicated.start_litestream();
    replicated.replicate_event();
    drop(litestream);
    replicated.server.stop();
    fs::remove_file(&replicated.database).unwrap();
    replicated.restore();
    replicated.server.start();
    let _litestream = replicated.start_litestream();
    replicated.replicate_event();
}

#[test]
#[ignore = "needs Litestream, which tests/run installs"]
fn the_log_starts_over_while_litestream_reads_it() {
    let replicated = Replicated::new();
    let mut litestream = replicated.start_litestream();
    replicated.replicate_event();
    // The salt in the header of the log changes when it starts over.
    let salt = || fs::read(replicated.server.path().join("t.db-wal")).unwrap()[16..24].to_vec();
    let before = salt();
    until("the log has started over", || {
        let response = replicated.server.post("/hooks/a", vec![b'x'; 200_000]);
        assert_eq!(response.status, 202);
        salt() != before
    });
    assert_eq!(litestream.0.try_wait().unwrap(), None);
}

#[test]
#[ignore = "needs Litestream, which tests/run installs"]
fn the_drill_fails_when_replication_has_stopped() {
    let replicated = Replicated::new();
    let mut litestream = replicated.start_litestream();
    replicated.replicate_event();
    litestream.0.kill().unwrap();
    litestream.0.wait().unwrap();
    assert!(!is_alive(&litestream.0.id().to_string()));
    replicated.server.post("/hooks/a", "x");
    let mut output = replicated.drill(&[], "60");
    assert!(stdout(&output).contains("behind the database: 1 events, "), "{}", stdout(&output));
    until("the event is older than the limit", || {
        output = replicated.drill(&[], "0");
        !output.status.success()
    });
    assert!(stderr(&output).contains("the replica lacks an event"), "{}", stderr(&output));
}

#[test]
#[ignore = "needs Litestream, which tests/run installs"]
fn the_drill_fails_without_a_replica() {
    let replicated = Replicated::new();
    let output = replicated.drill(&[], "60");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the replica cannot be restored"), "{}", stderr(&output));
}

#[test]
#[ignore = "needs Litestream, which tests/run installs"]
fn the_drill_fails_for_the_replica_of_another_database() {
    let mut replicated = Replicated::new();
    let litestream = replicated.start_litestream();
    replicated.replicate_event();
    replicated.lose_machine(litestream);
    replicated.server.start();
    replicated.server.post("/hooks/a", "x");
    let output = replicated.drill(&[], "60");
    assert!(stderr(&output).contains("is of another database"), "{}", stderr(&output));
}
