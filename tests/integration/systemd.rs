//! The shipped systemd units: systemd's tools verify and rate them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use hooktrail::internals::config::{self, parse_duration};

/// The path of the program in the shipped unit.
const PROGRAM: &str = "/usr/bin/hooktrail";

fn unit_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn unit_text(name: &str) -> String {
    fs::read_to_string(unit_path(name)).unwrap()
}

/// The unit with a program that exists here in all commands.
fn with_program(unit: &str, program: &str) -> String {
    unit.replace(&format!("={program} "), concat!("=", env!("CARGO_BIN_EXE_hooktrail"), " "))
}

/// The last value of a key in hooktrail.service.
fn value(key: &str) -> String {
    let unit = unit_text("hooktrail.service");
    let found = unit.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("hooktrail.service has no {key}=")).to_owned()
}

fn systemd(program: &str, args: &[&str], files: &[&Path]) -> Output {
    let output = Command::new(program).args(args).args(files).output();
    output.unwrap_or_else(|e| panic!("{program}: {e}: install systemd, as tests/run does"))
}

#[track_caller]
fn assert_success(output: &Output) -> String {
    let output_text = [&output.stdout[..], &output.stderr[..]].concat();
    let output_text = String::from_utf8_lossy(&output_text).into_owned();
    assert!(output.status.success(), "{}: {output_text}", output.status);
    output_text
}

#[test]
fn systemd_finds_no_error_in_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        ("hooktrail.service", Some(PROGRAM)),
        ("hooktrail.socket", None),
        ("hooktrail-backup.service", Some(PROGRAM)),
        ("hooktrail-backup.timer", None),
        ("hooktrail-litestream.service", Some("/usr/local/bin/litestream")),
        ("hooktrail-restore-drill.service", Some("/usr/local/bin/hooktrail-restore-drill")),
        ("hooktrail-restore-drill.timer", None),
    ];
    let units = names.map(|(name, program)| {
        let mut unit = unit_text(name);
        if let Some(program) = program {
            assert!(unit.contains(&format!("ExecStart={program} ")), "{name}");
            unit = with_program(&unit, program);
        }
        let copy = folder.path().join(name);
        fs::write(&copy, unit).unwrap();
        copy
    });
    let units = units.each_ref().map(PathBuf::as_path);
    // The man pages are not installed here.
    let output_text = assert_success(&systemd("systemd-analyze", &["verify", "--man=no"], &units));
    // systemd-analyze succeeds despite unknown keys, and also reports problems of other units.
    let messages: Vec<&str> =
        output_text.lines().filter(|line| line.contains("hooktrail")).collect();
    assert_eq!(messages, Vec::<&str>::new());
}

#[test]
fn systemd_rates_the_services_as_hardly_exposed() {
    let args = ["security", "--offline=true", "--threshold=16", "--no-pager"];
    for name in ["hooktrail", "hooktrail-backup", "hooktrail-litestream", "hooktrail-restore-drill"]
    {
        let unit = unit_path(&format!("{name}.service"));
        assert_success(&systemd("systemd-analyze", &args, &[&unit]));
    }
}

#[test]
fn the_service_gives_the_reason_for_each_exposure_that_is_left() {
    let args = ["security", "--offline=true", "--json=short", "--no-pager"];
    let unit = unit_path("hooktrail.service");
    let report = assert_success(&systemd("systemd-analyze", &args, &[&unit]));
    let findings: serde_json::Value = serde_json::from_str(&report).unwrap();
    let exposed = findings.as_array().unwrap().iter().filter(|finding| {
        finding["exposure"].as_str().is_some_and(|exposure| !["0", "0.0"].contains(&exposure))
    });
    // `RestrictAddressFamilies=~AF_UNIX`, `RootDirectory=/RootImage=`.
    let settings: Vec<&str> = exposed
        .map(|finding| finding["name"].as_str().unwrap().split('=').next().unwrap())
        .collect();
    assert!(settings.contains(&"PrivateNetwork"), "{report}");
    let unit = unit_text("hooktrail.service");
    let comments: Vec<&str> = unit.lines().filter(|line| line.starts_with("#   ")).collect();
    for setting in settings {
        let setting = format!("{setting}=");
        assert!(comments.iter().any(|line| line.contains(&setting)), "{setting} in {comments:?}");
    }
}

#[test]
fn systemd_finds_no_error_in_the_examples_of_a_drop_in() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("hooktrail.service");
    fs::write(&unit, with_program(&unit_text("hooktrail.service"), PROGRAM)).unwrap();
    // A comment has a space after its `#`.
    let is_example = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let examples = unit_text("hooktrail-handlers.conf");
    let lines: Vec<&str> = examples.lines().filter(is_example).map(|line| &line[1..]).collect();
    assert!(lines.contains(&"ReadWritePaths=-/srv/www"), "{lines:?}");
    let drop_ins = folder.path().join("hooktrail.service.d");
    fs::create_dir(&drop_ins).unwrap();
    let messages = |lines: &str| {
        fs::write(drop_ins.join("handlers.conf"), format!("[Service]\n{lines}\n")).unwrap();
        let output = systemd("systemd-analyze", &["verify", "--man=no"], &[&unit]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        text.lines()
            .filter(|line| line.contains("hooktrail"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(messages(&lines.join("\n")), Vec::<String>::new());
    assert_ne!(messages("ReadWritePath=/srv/www"), Vec::<String>::new());
}

#[test]
fn systemd_creates_the_user_of_the_service() {
    let output = systemd("systemd-sysusers", &["--dry-run"], &[&unit_path("hooktrail.sysusers")]);
    assert_success(&output);
    let user = format!("u {} - ", value("User"));
    assert!(unit_text("hooktrail.sysusers").lines().any(|line| line.starts_with(&user)));
}

#[test]
fn the_link_data_leads_to_the_folder_that_the_service_can_write() {
    let tmpfiles = unit_text("hooktrail.tmpfiles");
    let lines: Vec<Vec<&str>> =
        tmpfiles.lines().map(|line| line.split_whitespace().collect()).collect();
    let folder = format!("/var/lib/{}", value("StateDirectory"));
    assert!(lines.contains(&vec!["L", "/etc/hooktrail/data", "-", "-", "-", "-", &folder]));
    let (mode, user) = (value("StateDirectoryMode"), value("User"));
    assert!(lines.contains(&vec!["d", &folder, &mode, &user, &value("Group")]));
    let home = format!("\"Hooktrail webhook receiver\" {folder}");
    assert!(unit_text("hooktrail.sysusers").lines().any(|line| line.ends_with(&home)));
}

#[test]
fn the_stop_timeout_of_the_unit_exceeds_that_of_running_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "").unwrap();
    let shutdown_timeout = config::load(&file).unwrap().config.workers.shutdown_timeout;
    let stop_timeout = parse_duration(&value("TimeoutStopSec")).unwrap();
    let grace = hooktrail::internals::process::GRACE;
    assert!(
        stop_timeout >= shutdown_timeout + grace * 2 + Duration::from_secs(10),
        "{stop_timeout:?} for {shutdown_timeout:?}"
    );
}

#[test]
fn systemd_restarts_a_failed_server_without_limit() {
    assert_eq!(value("StartLimitIntervalSec"), "0");
    assert_eq!(value("Restart"), "on-failure");
}

#[test]
fn systemd_does_not_restart_after_an_invalid_configuration() {
    assert_eq!(value("RestartPreventExitStatus"), "78");
    let output = Command::new(env!("CARGO_BIN_EXE_hooktrail"))
        .args(["--config", "/nowhere/config.toml", "serve"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
}
