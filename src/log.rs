//! The log on stderr. For journald, lines have its priorities and no time stamp of our own; for people they
//! have a time and colours. Callers escape text from outside (`{:?}`).
//!
//! No thread waits for the reader of stderr. Lines go into a bounded queue, and one thread writes them.
//! When the queue is full, lines are dropped and counted. Repeats of a line are folded into one line
//! with their count. `flush` and `exit` give the last lines one second.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use env_logger::{Target, WriteStyle};
use log::{Level, LevelFilter, Record};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::fstat;
use rustix::io::Errno;

use crate::redact::Redactor;
use crate::{clock, escape};

/// The secrets that no log line shows. Global, as the logger is.
static REDACTOR: ArcSwapOption<Redactor> = ArcSwapOption::const_empty();

/// Maximum number of waiting lines, and of their bytes.
const MAX_LINES: usize = 4096;
const MAX_BYTES: usize = 1 << 20;

/// The period within which repeats of a line are folded.
const FOLD_PERIOD: Duration = Duration::from_secs(60);

/// The number of repeats of our own lines that are written in a period, because an operator waits for some of them,
/// such as "reloaded". Libraries log about connections, which strangers make: their repeats are folded at once.
const MAX_OWN_REPEATS: u32 = 5;

/// Maximum number of different lines whose repeats are counted.
const MAX_FOLDED_LINES: usize = 256;

/// Maximum length of the text in a folded line.
const MAX_FOLDED_CHARS: usize = 500;

/// How long an exit waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static LAYOUT: OnceLock<Layout> = OnceLock::new();
static QUEUE: LineQueue = LineQueue::new();

/// The target of lines in a fixed form that other programs read (docs/operations.md). They are not folded: the
/// caller bounds their number. At INFO they have the priority `notice` in the journal.
pub const FIXED_FORM: &str = "hooktrail::fixed_form";

/// Starts the log. Only `serve` calls it, once. `HOOKTRAIL_LOG=debug` logs more.
///
/// # Errors
/// The log thread cannot be started.
pub fn start() -> std::io::Result<()> {
    let layout = *LAYOUT.get_or_init(Layout::of_stderr);
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info);
    // Libraries log about their threads and sockets, which does not help an operator.
    for library in ["actix_server", "actix_http", "actix_web", "r2d2", "mio"] {
        builder.filter_module(library, LevelFilter::Warn);
    }
    // Each attempt to connect would be a line. Sources and attempts say what is wrong once.
    builder.filter_module("async_nats", LevelFilter::Off);
    builder.parse_env("HOOKTRAIL_LOG");
    builder.write_style(if layout.has_colour { WriteStyle::Always } else { WriteStyle::Never });
    builder.target(Target::Pipe(Box::new(QueueWriter)));
    builder.format(move |out, record| {
        // The debug lines of libraries contain headers and bodies.
        if record.level() > Level::Warn && !record.target().starts_with("hooktrail") {
            return Ok(());
        }
        let (severity, text) = entry(record);
        let is_fixed_form = record.target() == FIXED_FORM;
        match !is_fixed_form && QUEUE.is_folded(record, severity, &text) {
            true => Ok(()),
            false => out.write_all(&layout.line(severity, &text)),
        }
    });
    // A second start in one process (tests) keeps the first.
    if builder.try_init().is_ok() {
        std::thread::Builder::new().name("log".into()).spawn(|| QUEUE.run())?;
    }
    Ok(())
}

/// Logs why the server cannot start or did not stop cleanly, without a time stamp. Returns `false` if the
/// log was not started.
pub fn write_failure(text: &str) -> bool {
    let Some(layout) = LAYOUT.get() else { return false };
    let plain = Layout { has_time: false, ..*layout };
    QUEUE.put(plain.line(Severity::Error, &redact(text)));
    true
}

/// Waits until all lines are written, for at most one second.
pub fn flush() {
    QUEUE.flush(Instant::now() + FLUSH_TIMEOUT);
}

/// Ends the process after the last lines are written.
#[expect(clippy::disallowed_methods, reason = "the last lines are written first")]
pub fn exit(code: i32) -> ! {
    flush();
    std::process::exit(code);
}

/// How severe a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
    /// Normal, but worth a look. For people it is INFO.
    Notice,
    Info,
    Debug,
    Trace,
}

impl Severity {
    fn of(record: &Record<'_>) -> Self {
        match record.level() {
            Level::Error => Self::Error,
            Level::Warn => Self::Warning,
            Level::Info if record.target() == FIXED_FORM => Self::Notice,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
            Level::Trace => Self::Trace,
        }
    }

    /// Returns the priority in the journal.
    /// <https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html>
    fn priority(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
            Self::Debug | Self::Trace => 7,
        }
    }

    /// Returns the name for people, and its colour.
    fn name_and_colour(self) -> (&'static str, &'static str) {
        match self {
            Self::Error => ("ERROR", "\x1b[1;31m"),
            Self::Warning => ("WARN ", "\x1b[33m"),
            Self::Notice | Self::Info => ("INFO ", "\x1b[32m"),
            Self::Debug => ("DEBUG", "\x1b[34m"),
            Self::Trace => ("TRACE", "\x1b[36m"),
        }
    }
}

/// Returns the severity and the text of a record. A failed connection is logged at INFO, because it is no
/// error of the server, regardless of the level that the library gives it.
fn entry(record: &Record<'_>) -> (Severity, String) {
    let text = record.args().to_string();
    let text = redact(&text).into_owned();
    if !record.target().starts_with("actix_http") || record.level() > Level::Warn {
        return (Severity::of(record), text);
    }
    let reason = text.strip_prefix("stream error: ").unwrap_or(&text);
    (Severity::Info, format!("a connection is closed: {reason}"))
}

/// The format of log lines.
#[derive(Clone, Copy, Debug)]
struct Layout {
    is_journal: bool,
    has_colour: bool,
    has_time: bool,
}

impl Layout {
    #[expect(clippy::disallowed_methods, reason = "the log goes to stderr")]
    fn of_stderr() -> Self {
        let is_journal = is_journal();
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let has_colour = std::io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb;
        Self { is_journal, has_colour, has_time: !is_journal }
    }

    fn line(self, severity: Severity, text: &str) -> Vec<u8> {
        let mut line = Vec::with_capacity(text.len() + 48);
        for part in text.lines() {
            if self.is_journal {
                line.extend_from_slice(format!("<{}>", severity.priority()).as_bytes());
            } else if self.has_time {
                let at = clock::format_rfc3339(clock::wall_ms());
                let (name, colour) = severity.name_and_colour();
                let (on, off) = if self.has_colour { (colour, "\x1b[0m") } else { ("", "") };
                line.extend_from_slice(format!("{at} {on}{name}{off} ").as_bytes());
            }
            let part = escape::escape_except(part, |c| c == '\t');
            line.extend_from_slice(part.as_bytes());
            line.push(b'\n');
        }
        line
    }
}

/// Sets the secrets that no line shows.
pub fn redact_by(redactor: Arc<Redactor>) {
    REDACTOR.store(Some(redactor));
}

/// Returns the secrets that no line shows.
pub fn redactor() -> Arc<Redactor> {
    REDACTOR.load_full().unwrap_or_default()
}

/// Redacts secrets in a text.
fn redact(text: &str) -> Cow<'_, str> {
    match &*REDACTOR.load() {
        Some(redactor) => redactor.redact(text),
        None => Cow::Borrowed(text),
    }
}

/// Returns whether stderr is connected to the journal. The variable alone is not enough: a child whose
/// stderr is a pipe inherits it.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(found) = fstat(rustix::stdio::stderr()) else { return false };
    named == format!("{}:{}", found.st_dev, found.st_ino)
}

/// The writer that env_logger uses: puts lines into the queue.
struct QueueWriter;

impl Write for QueueWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        // A folded repeat yields an empty line.
        if !line.is_empty() {
            QUEUE.put(line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The bounded queue of lines for stderr.
#[derive(Debug)]
struct LineQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that were dropped or could not be written, and that no line has reported yet.
    dropped: u64,
    /// The log thread is writing lines that it took from the queue.
    is_writing: bool,
    repeats: BTreeMap<u64, Repeats>,
}

/// The repeats of one line in the current period.
#[derive(Debug)]
struct Repeats {
    severity: Severity,
    text: String,
    since: Instant,
    written: u32,
    folded: u64,
}

impl LineQueue {
    const fn new() -> Self {
        let queue = QueueState {
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            is_writing: false,
            repeats: BTreeMap::new(),
        };
        Self { state: Mutex::new(queue), changed: Condvar::new() }
    }

    fn put(&self, line: Vec<u8>) {
        self.state.lock().put(line);
        self.changed.notify_all();
    }

    /// Returns whether this line is only counted, because it was repeated too often.
    fn is_folded(&self, record: &Record<'_>, severity: Severity, text: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        (record.file(), record.line(), text).hash(&mut hasher);
        let is_own = record.target().starts_with("hooktrail");
        let written_max = if is_own { MAX_OWN_REPEATS } else { 1 };
        self.state.lock().is_folded(hasher.finish(), severity, text, written_max, Instant::now())
    }

    /// Writes lines as they arrive, until the process ends.
    fn run(&self) {
        let mut queue = self.state.lock();
        loop {
            queue.report_repeats(Instant::now(), false);
            if queue.lines.is_empty() && queue.dropped == 0 {
                match queue.next_report() {
                    None => self.changed.wait(&mut queue),
                    Some(at) => drop(self.changed.wait_until(&mut queue, at)),
                }
                continue;
            }
            let (lines, dropped) = queue.take_lines();
            drop(queue);
            let lost = write_all(lines, dropped);
            queue = self.state.lock();
            queue.is_writing = false;
            queue.dropped = queue.dropped.saturating_add(lost);
            self.changed.notify_all();
            if lost > 0 {
                // stderr cannot be written now. The next line is the next try.
                self.changed.wait(&mut queue);
            }
        }
    }

    fn flush(&self, deadline: Instant) {
        let mut queue = self.state.lock();
        queue.report_repeats(Instant::now(), true);
        self.changed.notify_all();
        let is_unwritten = |queue: &mut QueueState| queue.is_writing || !queue.lines.is_empty();
        self.changed.wait_while_until(&mut queue, is_unwritten, deadline);
    }
}

impl QueueState {
    fn put(&mut self, line: Vec<u8>) {
        if self.lines.len() >= MAX_LINES || self.bytes + line.len() > MAX_BYTES {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// Takes all waiting lines, and the number of lines dropped after them.
    fn take_lines(&mut self) -> (VecDeque<Vec<u8>>, u64) {
        self.is_writing = true;
        self.bytes = 0;
        (std::mem::take(&mut self.lines), std::mem::take(&mut self.dropped))
    }

    fn is_folded(
        &mut self,
        key: u64,
        severity: Severity,
        text: &str,
        written_max: u32,
        now: Instant,
    ) -> bool {
        if let Some(repeats) = self.repeats.get_mut(&key) {
            let has_ended = now.duration_since(repeats.since) >= FOLD_PERIOD;
            if !has_ended || repeats.folded > 0 {
                let is_folded = repeats.written >= written_max;
                repeats.written += u32::from(!is_folded);
                repeats.folded += u64::from(is_folded);
                return is_folded;
            }
            (repeats.since, repeats.written) = (now, 1);
            return false;
        }
        if self.repeats.len() >= MAX_FOLDED_LINES {
            let is_current = |_: &u64, repeats: &mut Repeats| {
                repeats.folded > 0 || now.duration_since(repeats.since) < FOLD_PERIOD
            };
            self.repeats.retain(is_current);
        }
        if self.repeats.len() < MAX_FOLDED_LINES {
            let text = text.chars().take(MAX_FOLDED_CHARS).collect();
            self.repeats.insert(key, Repeats { severity, text, since: now, written: 1, folded: 0 });
        }
        false
    }

    /// Returns when the next report of repeats is due.
    fn next_report(&self) -> Option<Instant> {
        let folded = self.repeats.values().filter(|repeats| repeats.folded > 0);
        folded.map(|repeats| repeats.since + FOLD_PERIOD).min()
    }

    /// Queues the reports of repeats that are due, or all of them. A lasting flood yields one line for each
    /// period.
    fn report_repeats(&mut self, now: Instant, all: bool) {
        let Some(layout) = LAYOUT.get() else { return };
        let mut lines = Vec::new();
        for repeats in self.repeats.values_mut().filter(|repeats| repeats.folded > 0) {
            let age = now.duration_since(repeats.since);
            if all || age >= FOLD_PERIOD {
                let Repeats { folded, text, severity, .. } = repeats;
                let text = format!("{folded} more times within {} s: {text}", age.as_secs());
                lines.push(layout.line(*severity, &text));
                (repeats.folded, repeats.since) = (0, now);
            }
        }
        lines.into_iter().for_each(|line| self.put(line));
    }
}

/// Writes lines to stderr, and then a line that says how many were dropped. Returns how many lines were
/// lost without such a report.
fn write_all(lines: VecDeque<Vec<u8>>, dropped: u64) -> u64 {
    let lost = lines.iter().filter(|line| write(line).is_err()).count();
    let lost = u64::try_from(lost).unwrap_or(u64::MAX).saturating_add(dropped);
    let (Some(layout), true) = (LAYOUT.get(), lost > 0) else { return lost };
    let text = format!(
        "{lost} log lines were dropped: the reader of stderr was too slow, or stderr could not be written"
    );
    if write(&layout.line(Severity::Warning, &text)).is_ok() { 0 } else { lost }
}

/// Writes one line, and blocks until it is written.
fn write(mut line: &[u8]) -> Result<(), Errno> {
    let stderr = rustix::stdio::stderr();
    while !line.is_empty() {
        match rustix::io::write(stderr, line) {
            Ok(written) => line = &line[written..],
            Err(Errno::INTR) => {}
            // Another process made the shared open file non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)], None);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> QueueState {
        LineQueue::new().state.into_inner()
    }

    #[test]
    fn repeats_of_a_line_are_folded_into_one_line_for_each_period() {
        LAYOUT.get_or_init(|| Layout { is_journal: true, has_colour: false, has_time: false });
        let (mut queue, began) = (queue(), Instant::now());
        let folded = |queue: &mut QueueState, secs| {
            let now = began + Duration::from_secs(secs);
            (0..100).filter(|_| queue.is_folded(7, Severity::Warning, "no", 5, now)).count()
        };
        assert_eq!(folded(&mut queue, 0), 95);
        assert_eq!(queue.next_report(), Some(began + FOLD_PERIOD));
        queue.report_repeats(began + FOLD_PERIOD, false);
        assert!(String::from_utf8_lossy(&queue.lines[0]).contains("95 more times within 60 s: no"));
        // The flood continues.
        assert_eq!(folded(&mut queue, 61), 100);
        queue.report_repeats(began + FOLD_PERIOD * 2, false);
        assert_eq!(queue.lines.len(), 2);
        // The flood has ended for more than a period.
        assert_eq!(folded(&mut queue, 181), 95);
    }

    #[test]
    fn many_different_lines_take_bounded_memory() {
        let (mut queue, now) = (queue(), Instant::now());
        for key in 0..10_000 {
            assert!(!queue.is_folded(key, Severity::Warning, "no", 5, now));
        }
        assert_eq!(queue.repeats.len(), MAX_FOLDED_LINES);
        let later = now + FOLD_PERIOD;
        assert!(!queue.is_folded(10_000, Severity::Warning, "no", 5, later));
        assert_eq!(queue.repeats.len(), 1);
    }

    #[test]
    fn lines_beyond_the_bounds_are_dropped_and_counted() {
        let mut queue = queue();
        for _ in 0..MAX_LINES + 3 {
            queue.put(vec![b'x'; 8]);
        }
        queue.put(vec![b'x'; MAX_BYTES]);
        assert_eq!(queue.dropped, 4);
        assert_eq!((queue.take_lines().1, queue.lines.len(), queue.bytes), (4, 0, 0));
    }

    #[test]
    fn each_line_for_the_journal_has_its_priority() {
        let layout = Layout { is_journal: true, has_colour: false, has_time: false };
        assert_eq!(layout.line(Severity::Error, "a\nb"), b"<3>a\n<3>b\n");
        assert_eq!(layout.line(Severity::Notice, "a"), b"<5>a\n");
    }

    #[test]
    fn a_malformed_request_is_logged_at_info() {
        let record = |target| {
            let args = format_args!("stream error: request parse error: invalid method");
            let record = Record::builder().target(target).level(Level::Error).args(args).build();
            entry(&record)
        };
        let closed = "a connection is closed: request parse error: invalid method".to_owned();
        assert_eq!(record("actix_http::h1::dispatcher"), (Severity::Info, closed));
        assert_eq!(record("hooktrail::app").0, Severity::Error);
    }
}
