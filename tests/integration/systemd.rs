//! The units that are shipped: systemd itself reads and rates them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use hooktrail::config::{self, parse_duration};

/// Where the shipped unit looks for the program.
const PROGRAM: &str = "/usr/local/bin/hooktrail";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap()
}

/// The last value of a key in the service's file.
fn value(key: &str) -> String {
    let unit = text("hooktrail.service");
    let found = unit.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("hooktrail.service has no {key}=")).to_owned()
}

fn systemd(program: &str, args: &[&str], files: &[&Path]) -> Output {
    let output = Command::new(program).args(args).args(files).output();
    output.unwrap_or_else(|e| panic!("{program}: {e}: install systemd, as tests/run does"))
}

#[track_caller]
fn assert_well(output: &Output) -> String {
    let told = [&output.stdout[..], &output.stderr[..]].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(output.status.success(), "{}: {told}", output.status);
    told
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let unit = text("hooktrail.service");
    assert!(unit.contains(&format!("ExecStart={PROGRAM} ")));
    let service = folder.path().join("hooktrail.service");
    let socket = folder.path().join("hooktrail.socket");
    fs::write(&service, unit.replace(PROGRAM, env!("CARGO_BIN_EXE_hooktrail"))).unwrap();
    fs::copy(shipped("hooktrail.socket"), &socket).unwrap();
    let told = assert_well(&systemd("systemd-analyze", &["verify"], &[&service, &socket]));
    // A key it does not know is told, and passes; so is what ails other units of this machine.
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("hooktrail")).collect();
    assert_eq!(ours, Vec::<&str>::new());
}

#[test]
fn systemd_rates_the_service_as_hardly_exposed() {
    let args = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    assert_well(&systemd("systemd-analyze", &args, &[&shipped("hooktrail.service")]));
}

#[test]
fn systemd_makes_the_services_user() {
    let output = systemd("systemd-sysusers", &["--dry-run"], &[&shipped("hooktrail.sysusers")]);
    assert_well(&output);
    let user = format!("u {} - ", value("User"));
    assert!(text("hooktrail.sysusers").lines().any(|line| line.starts_with(&user)));
}

#[test]
fn a_stop_waits_longer_than_running_jobs_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "").unwrap();
    let given = config::load(&file).unwrap().config.workers.shutdown_timeout;
    let waits = parse_duration(&value("TimeoutStopSec")).unwrap();
    let grace = hooktrail::process::GRACE;
    assert!(waits >= given + grace * 2 + Duration::from_secs(10), "{waits:?} for {given:?}");
}

#[test]
fn a_server_that_fails_is_started_again_without_limit() {
    assert_eq!(value("StartLimitIntervalSec"), "0");
    assert_eq!(value("Restart"), "on-failure");
}

#[test]
fn a_faulty_configuration_is_not_tried_again() {
    assert_eq!(value("RestartPreventExitStatus"), "78");
    let output = Command::new(env!("CARGO_BIN_EXE_hooktrail"))
        .args(["--config", "/nowhere/config.toml", "serve"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
}
