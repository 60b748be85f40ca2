//! The artefacts of a release: the Debian package, the tarball, the Dockerfile. `packaging/` builds them.
//!
//! The tests package the debug binary that they run. `in_a_machine` installs the package under a live systemd.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::help::commands;

mod in_a_machine;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).current_dir(repository()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}: tests/run installs it"))
}

/// Runs a command that must succeed, and returns what it prints.
#[track_caller]
fn printed(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Builds an artefact of the debug binary once, and returns its path.
fn artefact(script: &str, options: &[&str], built: &'static OnceLock<PathBuf>) -> &'static Path {
    built.get_or_init(|| {
        let options = [&["--profile", "dev"], options].concat();
        let path = printed(script, &options);
        path.lines().next_back().expect("a path").into()
    })
}

fn package() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    artefact("packaging/deb", &[], &BUILT)
}

fn tarball() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    artefact("packaging/tarball", &["--target", "host"], &BUILT)
}

/// The package, unpacked.
fn unpacked() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let paths = [package(), folder.path()].map(|path| path.to_str().unwrap());
    printed("dpkg-deb", &["--extract", paths[0], paths[1]]);
    folder
}

/// The modes of the files in a listing of `tar --verbose`, by their paths below /.
fn files(listing: &str, root: &str) -> BTreeMap<String, String> {
    let lines = listing.lines().filter(|line| !line.starts_with('d'));
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let mode = words.next().unwrap().to_owned();
        assert!(["root/root", "0/0"].contains(&words.next().unwrap()), "{line}");
        let path =
            words.next_back().unwrap().strip_prefix(root).unwrap_or_else(|| panic!("{line}"));
        (path.to_owned(), mode)
    };
    lines.map(entry).collect()
}

fn files_of_the_package() -> BTreeMap<String, String> {
    files(&printed("dpkg-deb", &["--contents", package().to_str().unwrap()]), "./")
}

/// The files of an installation with their modes, besides those that only a Debian package has.
fn expected_files() -> BTreeMap<String, String> {
    const DATA: &str = "-rw-r--r--";
    const PROGRAM: &str = "-rwxr-xr-x";
    let mut files: BTreeMap<String, String> = [
        ("etc/hooktrail/config.toml", "-rw-r-----"),
        ("usr/bin/hooktrail", PROGRAM),
        ("usr/lib/systemd/system/hooktrail-backup.service", DATA),
        ("usr/lib/systemd/system/hooktrail-backup.timer", DATA),
        ("usr/lib/systemd/system/hooktrail.service", DATA),
        ("usr/lib/systemd/system/hooktrail.socket", DATA),
        ("usr/lib/sysusers.d/hooktrail.conf", DATA),
        ("usr/lib/tmpfiles.d/hooktrail.conf", DATA),
        ("usr/share/bash-completion/completions/hooktrail", DATA),
        ("usr/share/fish/vendor_completions.d/hooktrail.fish", DATA),
        ("usr/share/zsh/vendor-completions/_hooktrail", DATA),
        ("usr/share/hooktrail/handlers/alert", PROGRAM),
        ("usr/share/hooktrail/handlers/show-contact", PROGRAM),
        ("usr/share/hooktrail/handlers/show-form", PROGRAM),
        ("usr/share/man/man1/hooktrail.1.gz", DATA),
        ("usr/share/doc/hooktrail/copyright", DATA),
        ("usr/share/doc/hooktrail/crates.gz", DATA),
    ]
    .map(|(path, mode)| (path.to_owned(), mode.to_owned()))
    .into();
    for command in commands() {
        files.insert(format!("usr/share/man/man1/hooktrail-{command}.1.gz"), DATA.to_owned());
    }
    let documentation = printed(
        "git",
        &[
            "ls-files",
            "--format=%(objectmode) %(path)",
            "README.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "docs",
            "examples",
            "monitoring",
            "litestream",
            "systemd/hooktrail-handlers.conf",
            "systemd/hooktrail-litestream.service",
            "systemd/hooktrail-restore-drill.*",
        ],
    );
    for line in documentation.lines() {
        let (mode, path) = line.split_once(' ').unwrap();
        let mode = if mode == "100755" { PROGRAM } else { DATA };
        files.insert(format!("usr/share/doc/hooktrail/{path}"), mode.to_owned());
    }
    assert!(files.len() > 90, "{}", files.len());
    files
}

#[test]
#[ignore = "needs cargo-deb: tests/run installs it"]
fn the_package_has_exactly_the_files_of_an_installation() {
    let mut expected = expected_files();
    for path in ["doc/hooktrail/changelog.gz", "lintian/overrides/hooktrail"] {
        expected.insert(format!("usr/share/{path}"), "-rw-r--r--".to_owned());
    }
    assert_eq!(files_of_the_package(), expected);
}

#[test]
#[ignore = "needs cargo-deb: tests/run installs it"]
fn the_tarball_has_the_files_of_the_package_and_the_same_configuration() {
    let path = tarball().to_str().unwrap();
    let root = format!("hooktrail-{}/", env!("CARGO_PKG_VERSION"));
    let listing = printed("tar", &["--list", "--verbose", "--gzip", "--file", path]);
    assert_eq!(files(&listing, &root), expected_files());
    let config = format!("{root}etc/hooktrail/config.toml");
    let config = printed("tar", &["--extract", "--to-stdout", "--gzip", "--file", path, &config]);
    let folder = unpacked();
    let packaged = fs::read_to_string(folder.path().join("etc/hooktrail/config.toml")).unwrap();
    assert_eq!(config, packaged);
}

#[test]
#[ignore = "needs cargo-deb: tests/run installs it"]
fn a_tarball_for_a_target_that_the_toolchain_lacks_says_what_to_install() {
    let output = run("packaging/tarball", &["--target", "riscv64gc-unknown-linux-musl"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("`rustup target add riscv64gc-unknown-linux-musl`"), "{errors}");
}

#[test]
#[ignore = "needs cargo-deb: tests/run installs it"]
fn the_configuration_is_the_only_file_that_an_upgrade_does_not_replace() {
    let conffiles = printed("dpkg-deb", &["--info", package().to_str().unwrap(), "conffiles"]);
    assert_eq!(conffiles.trim_end(), "/etc/hooktrail/config.toml");
}

#[test]
#[ignore = "needs cargo-deb: tests/run installs it"]
fn lintian_finds_neither_an_error_nor_a_warning_in_the_package() {
    let package = package().to_str().unwrap();
    let allowed = ["--fail-on", "error,warning", "--allow-root", "--tag-display-limit", "0"];
    let output = run("lintian", &[&allowed[..], &[package]].concat());
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{found}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs cargo-deb: tests/run installs it"]
fn the_changelog_of_the_package_is_the_section_of_its_version() {
    let folder = unpacked();
    let changelog = folder.path().join("usr/share/doc/hooktrail/changelog.gz");
    let text = printed("zcat", &[changelog.to_str().unwrap()]);
    let file = folder.path().join("changelog");
    fs::write(&file, &text).unwrap();
    let path = file.to_str().unwrap();
    let parsed = run("dpkg-parsechangelog", &["--file", path, "--show-field", "Version"]);
    assert_eq!(String::from_utf8_lossy(&parsed.stderr), "", "{text}");
    assert_eq!(String::from_utf8_lossy(&parsed.stdout).trim_end(), env!("CARGO_PKG_VERSION"));
    // Each entry of the section, without its line breaks.
    let join = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let changelog = fs::read_to_string(repository().join("CHANGELOG.md")).unwrap();
    let section = changelog.split("\n## ").nth(1).unwrap();
    let entries: Vec<&str> = section.split("\n- ").skip(1).collect();
    assert!(entries.len() > 50, "{} entries", entries.len());
    for entry in entries {
        let entry = entry.split("\n\n").next().unwrap();
        assert!(join(&text).contains(&join(entry)), "{entry}");
    }
}

/// The candidates for the last word of `hooktrail res`, by a script of a shell that gets the file of the completion.
fn completed(shell: &str, script: &str, file: &str) -> Vec<String> {
    let folder = unpacked();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new(shell);
    command.args(["-c", script, folder.path().join(file).to_str().unwrap()]);
    command.env("PATH", format!("{}:{path}", folder.path().join("usr/bin").display()));
    let output = command.env("HOME", folder.path()).current_dir(folder.path()).output();
    let output = output.unwrap_or_else(|error| panic!("{shell}: {error}: tests/run installs it"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}");
    let text = String::from_utf8(output.stdout).unwrap();
    let is_end = |c: char| !c.is_ascii_alphabetic();
    text.lines().filter_map(|line| line.split(is_end).next()).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs cargo-deb, zsh and fish: tests/run installs them"]
fn bash_zsh_and_fish_complete_with_the_files_of_the_package() {
    let bash = "source \"$0\"; COMP_WORDS=(hooktrail res); COMP_CWORD=1; COMP_TYPE=9; \
                _clap_complete_hooktrail hooktrail res; printf '%s\\n' \"${COMPREPLY[@]}\"";
    // zsh finds the file in `fpath`, and calls it as a function. It prints candidates only in its line editor.
    let zsh = "compdef() { }; _describe() { print -l ${(P)3} }; fpath=(${0:h} $fpath); \
               autoload -Uz _hooktrail; words=(hooktrail res); CURRENT=2; _hooktrail";
    let fish = "source $argv[1]; complete --do-complete 'hooktrail res'";
    for (shell, script, file) in [
        ("bash", bash, "usr/share/bash-completion/completions/hooktrail"),
        ("zsh", zsh, "usr/share/zsh/vendor-completions/_hooktrail"),
        ("fish", fish, "usr/share/fish/vendor_completions.d/hooktrail.fish"),
    ] {
        assert_eq!(completed(shell, script, file), ["resume", "restore"], "{shell}");
    }
}

#[test]
fn the_checksums_are_those_of_the_artefacts_and_another_version_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let write = |name: &str| fs::write(folder.path().join(name), name).unwrap();
    let empty = run("packaging/checksums", &[path]);
    assert!(String::from_utf8_lossy(&empty.stderr).contains("there are no artefacts"));
    write(&format!("hooktrail_{version}_amd64.deb"));
    write(&format!("hooktrail-{version}-x86_64-unknown-linux-musl.tar.gz"));
    let sums = printed("packaging/checksums", &[path]);
    assert_eq!(
        Path::new(sums.trim_end()),
        folder.path().canonicalize().unwrap().join("SHA256SUMS")
    );
    assert_eq!(fs::read_to_string(sums.trim_end()).unwrap().lines().count(), 2);
    let check = format!("cd {path} && sha256sum --check --strict SHA256SUMS");
    printed("sh", &["-c", &check]);
    write(&format!("hooktrail_{version}_amd64.deb.tar.gz"));
    fs::write(folder.path().join(format!("hooktrail_{version}_amd64.deb")), "changed").unwrap();
    assert!(!run("sh", &["-c", &check]).status.success());
    write("hooktrail_0.0.1_amd64.deb");
    let stale = run("packaging/checksums", &[path]);
    let errors = String::from_utf8_lossy(&stale.stderr);
    assert_eq!(stale.status.code(), Some(1));
    assert!(errors.contains("hooktrail_0.0.1_amd64.deb: is not of version"), "{errors}");
}

#[test]
#[ignore = "needs hadolint: tests/run installs it"]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let output = run("target/test-hadolint/bin/hadolint", &["--no-color", "Dockerfile"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The files that Docker sends to the build of the image, with `.dockerignore`.
fn build_context() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let ignored = fs::read_to_string(repository().join(".dockerignore")).unwrap();
    let sent: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignored.lines().any(|line| line == "*"), "{ignored}");
    let listed = printed("git", &[&["ls-files"], &sent[..]].concat());
    for path in listed.lines() {
        let to = folder.path().join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        // With its mode.
        fs::copy(repository().join(path), to).unwrap();
    }
    folder
}

#[test]
fn the_build_of_the_container_gets_all_files_that_it_reads() {
    let context = build_context();
    let target = Path::new(env!("CARGO_BIN_EXE_hooktrail")).ancestors().nth(2).unwrap();
    let installed = context.path().join("installed");
    let output = Command::new("packaging/layout")
        .args(["--profile", "dev", installed.to_str().unwrap()])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(context.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = printed(
        "tar",
        &["--create", "--directory", installed.to_str().unwrap(), "--file", "/dev/null"]
            .into_iter()
            .chain(["--owner=0", "--group=0", "--numeric-owner", "--verbose", "--verbose", "."])
            .collect::<Vec<_>>(),
    );
    assert_eq!(files(&listing, "./"), expected_files());
    // What the compiler includes.
    let sources = crate::architecture::sources("src").into_iter();
    for source in sources.filter(|source| !source.path.contains("tests")) {
        let folder = repository().join(&source.path);
        for included in source.text.split("include_str!(\"").skip(1) {
            let included = folder.parent().unwrap().join(included.split('"').next().unwrap());
            let included = included.canonicalize().unwrap();
            let path = included.strip_prefix(repository().canonicalize().unwrap()).unwrap();
            assert!(context.path().join(path).exists(), "{}", path.display());
        }
    }
}

#[test]
fn the_container_listens_on_all_addresses() {
    let dockerfile = fs::read_to_string(repository().join("Dockerfile")).unwrap();
    let edit = dockerfile.split("&& sed -i ").nth(1).unwrap().split("/installed").next().unwrap();
    let edit = format!("sed {} config.toml", edit.replace("\\\n", " "));
    let text = printed("sh", &["-c", &edit]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, &text).unwrap();
    let config = hooktrail::internals::config::load(&file).unwrap().config;
    let addresses: Vec<_> = config.server.listen.iter().map(|listener| &listener.address).collect();
    assert_eq!(format!("{addresses:?}"), "[Tcp(0.0.0.0:8080)]");
    assert_eq!(format!("{:?}", config.admin.listen), "[Tcp(0.0.0.0:8081)]");
}
