//! The commands of README.md and docs/quick-start.md, pasted in their order, print what the pages show.
//! Outputs on other pages are those of the state that the quick start leaves.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::server::{HOOKTRAIL, until};

/// A fenced code block: its language, and its lines.
struct Block {
    language: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut fences = page.split("\n```").skip(1);
    let mut blocks = Vec::new();
    while let (Some(block), Some(_)) = (fences.next(), fences.next()) {
        let (language, text) = block.split_once('\n').unwrap();
        blocks.push(Block { language: language.to_owned(), text: text.to_owned() });
    }
    blocks
}

/// The commands that install the package. A test that is not root starts the server in a folder instead.
const INSTALLATION: &str = "deb=$(packaging/deb)\nsudo apt install \"$deb\"\n";

/// The commands of an installation, as they are for a server that runs in the folder.
fn in_the_folder(commands: &str) -> String {
    let text = commands.replace(INSTALLATION, "");
    let text = text.replace("systemctl reload hooktrail", "hooktrail reload");
    let text = text.replace("sudo -u hooktrail ", "").replace("sudo ", "");
    text.replace("/etc/hooktrail/", "").replace("/var/lib/hooktrail/", "data/")
}

/// A reader's machine: a home folder, two terminals, and ports that nobody else uses.
struct Reader {
    home: tempfile::TempDir,
    /// The working directory of the second terminal.
    folder: PathBuf,
    ports: [u16; 2],
    /// A zone where it is about noon, because tables print times of another day with their date.
    time_zone: String,
    server: Option<Child>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(child) = &mut self.server {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Reader {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = free.map(|listener| listener.local_addr().unwrap().port());
        let folder = home.path().to_owned();
        let hour = Command::new("date").args(["-u", "+%H"]).output().unwrap().stdout;
        let hour: i32 = String::from_utf8(hour).unwrap().trim().parse().unwrap();
        let time_zone = format!("UTC{}", hour - 12);
        Self { home, folder, ports, time_zone, server: None }
    }

    /// The text with the ports of this reader, and with retries that do not start during the test.
    fn adapted(&self, text: &str) -> String {
        let [senders, admin] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        let text = text.replace("127.0.0.1:8080", &senders).replace("127.0.0.1:8081", &admin);
        let deploy = "[handlers.deploy]\n";
        text.replace(deploy, &format!("{deploy}retry = {{ initial_delay = \"1h\" }}\n"))
    }

    fn command(&self, program: &str) -> Command {
        let folder = Path::new(HOOKTRAIL).parent().unwrap().display();
        let mut command = Command::new(program);
        command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
        command.env("HOME", self.home.path()).current_dir(&self.folder);
        command.env("TZ", &self.time_zone).env("NO_COLOR", "1");
        command
    }

    /// Runs a block in the second terminal and returns what it prints.
    fn paste(&mut self, text: &str) -> String {
        let text = self.adapted(text);
        let folder_file = self.home.path().join(".folder");
        let script = format!("set -e\n{text}\npwd > {}\n", folder_file.display());
        let output = match text.starts_with("hooktrail ") && is_read_only(&text) {
            // The text that the reader sees on a terminal of 80 columns.
            true => {
                let script = format!("stty cols 80\n{script}");
                let mut command = self.command("script");
                command.args(["-qec", &script, "/dev/null"]).stdin(Stdio::null()).output().unwrap()
            }
            false => self.command("sh").args(["-c", &script]).output().unwrap(),
        };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}: {errors}");
        self.folder = fs::read_to_string(folder_file).unwrap().trim().into();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the server in the first terminal and returns its first `count` log lines.
    fn start(&mut self, count: usize) -> String {
        let file = self.folder.join("config.toml");
        let config = self.adapted(&fs::read_to_string(&file).unwrap());
        let [_, admin] = self.ports;
        let own =
            format!("[admin]\nlisten = [\"127.0.0.1:{admin}\"]\n\n[store]\nmin_free_space = 1024");
        fs::write(&file, config.replacen("[store]", &own, 1)).unwrap();
        let log_file = self.home.path().join(".log");
        let log = fs::File::create(&log_file).unwrap();
        let mut server = self.command("hooktrail");
        self.server = Some(server.stderr(log).stdin(Stdio::null()).spawn().unwrap());
        let mut text = String::new();
        until("the server has started", || {
            text.clear();
            fs::File::open(&log_file).unwrap().read_to_string(&mut text).unwrap();
            text.lines().count() >= count
        });
        text
    }

    /// Pastes every command of a page and compares what it prints with the block that follows it.
    fn follow(&mut self, name: &str) {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let blocks = blocks(&fs::read_to_string(page).unwrap());
        for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh")
        {
            let next = blocks.get(index + 1).map_or("sh", |next| next.language.as_str());
            let expected = blocks.get(index + 1).map(|next| self.comparable(&next.text));
            let is_equal = |printed: &str| {
                expected.as_ref().is_none_or(|expected| is_shown(next, expected, printed))
            };
            if block.text.starts_with(INSTALLATION) {
                self.start(5);
            }
            match in_the_folder(&block.text).trim() {
                "tests/run" | "cargo install --locked --path ." => {}
                "hooktrail" => {
                    let log = self.start(5);
                    let log = self.comparable(&log);
                    assert!(is_equal(&log), "{name}: {log}");
                }
                reads if is_read_only(reads) => {
                    let what = format!("{name}: {reads} prints {expected:?}");
                    until(&what, || {
                        let printed = self.paste(reads);
                        is_equal(&self.comparable(&printed))
                    });
                }
                acts => {
                    let printed = self.paste(acts);
                    let printed = self.comparable(&printed);
                    assert!(is_equal(&printed), "{name}: {acts}\n{printed}\n{expected:?}");
                }
            }
        }
    }

    /// Runs a command until it prints what a page shows.
    fn compare(&mut self, name: &str, command: &str, shown: &Block) {
        let expected = self.comparable(&shown.text);
        until(&format!("{name}: {command} prints {expected:?}"), || {
            let printed = self.paste(command);
            is_shown(&shown.language, &expected, &self.comparable(&printed))
        });
    }

    /// Waits until the server has logged a line with the words and fields of each line that a page shows.
    fn compare_log(&self, name: &str, shown: &Block) {
        for line in shown.text.lines() {
            let form = form_of_log_line(line);
            until(&format!("{name}: the log has a line like {line}"), || {
                let log = fs::read_to_string(self.home.path().join(".log")).unwrap();
                log.lines().any(|line| form_of_log_line(line).ends_with(&form))
            });
        }
    }

    /// Text without what differs from run to run: words with digits, widths of columns, the home folder.
    fn comparable(&self, text: &str) -> String {
        let text = text.replace(&self.home.path().display().to_string(), "/home/you");
        let lines = text.lines().map(|line| {
            let words = line.split(|c: char| c.is_whitespace() || "|=\"/".contains(c));
            let words = words.filter(|word| !word.is_empty());
            let words = words.map(|word| match word.contains(|c: char| c.is_ascii_digit()) {
                true => "#",
                false => word,
            });
            words.collect::<Vec<_>>().join(" ")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// The words of a log line, without the values of its fields and without quoted text.
fn form_of_log_line(line: &str) -> String {
    let unquoted: String = line.split('"').step_by(2).collect();
    let words = unquoted.split_whitespace();
    let words = words.map(|word| word.split_once('=').map_or(word, |(field, _)| field));
    words.collect::<Vec<_>>().join(" ")
}

/// Whether the block of an output shows what a command printed. A block without a language is the whole
/// output. One of `text` has parts of it, with `…` between. Others show no output.
fn is_shown(language: &str, expected: &str, printed: &str) -> bool {
    match language {
        "" => expected == printed,
        "text" => expected.split('…').all(|part| printed.contains(part.trim())),
        _ => true,
    }
}

/// Whether a block can be pasted again and again until it prints what is expected.
fn is_read_only(block: &str) -> bool {
    let reads = ["hooktrail tail", "hooktrail list", "hooktrail show", "sqlite3 "];
    block.lines().all(|line| reads.iter().any(|read| line.starts_with(read)))
}

#[test]
fn the_commands_of_the_readme_print_what_it_shows() {
    let mut reader = Reader::new();
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = fs::read_to_string(top.join("config.toml")).unwrap();
    let config = format!("include = [\"conf.d/*.toml\"]\n{config}");
    fs::write(reader.folder.join("config.toml"), config).unwrap();
    fs::create_dir(reader.folder.join("handlers")).unwrap();
    for entry in fs::read_dir(top.join("handlers")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), reader.folder.join("handlers").join(entry.file_name())).unwrap();
    }
    reader.follow("README.md");
}

#[test]
fn the_commands_of_the_quick_start_print_what_it_shows() {
    Reader::new().follow("docs/quick-start.md");
}

/// Blocks without a language that show no output, or one that no test can make, and why.
const ILLUSTRATIONS: &[(&str, &str, &str)] = &[
    (
        "docs/job-lifecycle.md",
        "initial_delay × multiplier^(n−1), at most max_delay, ± jitter",
        "a formula",
    ),
    (
        "docs/job-lifecycle.md",
        "created as       unreleased, blocked, ready, scheduled, dead or cancelled",
        "a diagram, which docs/reference.rs compares with the code",
    ),
    (
        "docs/operations.md",
        "/var/backups/hooktrail/hooktrail-20261129T101500Z.db: 412 MiB, up to event 184223, read back without an \
         error",
        "an output for a large database; backup.rs compares its form",
    ),
    (
        "docs/operations.md",
        "restored: 412 MiB in 9 s",
        "an output for a large database; litestream.rs compares its form",
    ),
    (
        "docs/operations.md",
        "/var/lib/hooktrail/hooktrail.db: verified, nothing is wrong",
        "an output for installed files; backup.rs compares its form",
    ),
    (
        "docs/operations.md",
        "a row was changed after it was sealed: event 2",
        "outputs for altered rows; seals.rs compares their form",
    ),
    (
        "docs/operations.md",
        "368446:5f0c1d7e7f6c0a3c6a8a4d0b8f6ad1b3a9f3ad0f1f7c2f1c0d2c7a4be1a7c9d2",
        "a random value; seals.rs compares its form",
    ),
    (
        "docs/operations.md",
        "the trail does not contain a head: \
         368446:5f0c1d7e7f6c0a3c6a8a4d0b8f6ad1b3a9f3ad0f1f7c2f1c0d2c7a4be1a7c9d2 (the first 368446 seals have \
         another one: a sealed row was changed, or the database is another one or was restored)",
        "an output for an altered database; seals.rs compares its form",
    ),
    (
        "docs/operations.md",
        "/var/lib/hooktrail/hooktrail.db: restored up to event 184223; the next one is 1000184224",
        "an output for a large database; backup.rs compares its form",
    ),
];

/// The last command of a block whose output a page shows, if the program or a reader's tool prints it.
fn shown_command(block: &Block) -> Option<&str> {
    let programs = ["hooktrail ", "curl ", "sqlite3 "];
    let line = block.text.lines().rfind(|line| !line.is_empty())?;
    (block.language == "sh" && programs.iter().any(|program| line.starts_with(program)))
        .then_some(line)
}

#[test]
fn the_outputs_on_other_pages_are_those_after_the_quick_start() {
    let mut reader = Reader::new();
    reader.follow("docs/quick-start.md");
    let guides = ["README.md", "docs/quick-start.md"];
    for name in super::documentation_pages().iter().filter(|name| !guides.contains(&name.as_str()))
    {
        let page = super::page(name);
        // Below it, a test compares the page with the declarations.
        let page = page.split("<!-- Generated below this line").next().unwrap();
        let blocks = blocks(page);
        for (index, block) in blocks.iter().enumerate() {
            if block.language == "log" {
                reader.compare_log(name, block);
            }
            let is_output = ["", "text"].contains(&block.language.as_str());
            let is_illustration = ILLUSTRATIONS.iter().any(|(page, first, _)| {
                page == name && block.text.lines().next().unwrap_or_default() == *first
            });
            if !is_output || is_illustration {
                continue;
            }
            let before = index.checked_sub(1).and_then(|before| shown_command(&blocks[before]));
            let command = before.unwrap_or_else(|| {
                panic!(
                    "{name}: no test compares this output: put it below the `sh` block of its \
                     command, give it a language, or add it to ILLUSTRATIONS with a reason:\n{}",
                    block.text
                )
            });
            reader.compare(name, command, block);
        }
    }
}
