//! The other side: `hooktrail __expression`, started by the pool and by nobody else. Reads questions
//! on stdin and answers on stdout, one by one, until there are no more, or until it is ended by the
//! limits that it sets itself.

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::evaluate::{Evaluator, STAGE_INPUT};
use super::protocol::{self, Decoder};
use crate::process::{Sandbox, apply_limits, enter_sandbox_early};

/// The command that starts it, hidden from help.
pub const COMMAND: &str = "__expression";

/// What a process of this binary may have for an event, over what it has at its start. The stack
/// that it works on is there already; both together are 256 MiB.
const MEMORY_BYTES: u64 = (256 << 20) - STACK_BYTES as u64;

/// Holds whatever 4 KiB of text nest, twice over.
const STACK_BYTES: usize = 64 << 20;

/// What a pipe holds.
const BUFFER_BYTES: usize = 64 << 10;

/// Room that was needed for a larger question is given back.
const QUESTION_BYTES_MAX: usize = 1 << 20;

/// Answers are handed over together where questions came together, but none waits longer.
const HELD_BACK: Duration = Duration::from_micros(200);

/// `arguments`: those after the command: the processor time of an event in milliseconds, and how many
/// answers are handed over one by one.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let numbers = arguments.map(|number| number.to_str().and_then(|it| it.parse().ok()));
    let Some(&[processor_ms, one_by_one]) = numbers.collect::<Option<Vec<u32>>>().as_deref() else {
        return ExitCode::from(2);
    };
    if let Err(e) = enter_sandbox_early() {
        return failed(&e);
    }
    // What jaq has to say when it panics goes into the answer.
    std::panic::set_hook(Box::new(|_| {}));
    let thread = std::thread::Builder::new().name("expression".into()).stack_size(STACK_BYTES);
    let done = thread.spawn(move || {
        let confined = apply_limits(processor_ms, MEMORY_BYTES)?;
        serve(&confined, one_by_one)
    });
    match done.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(e))) | Err(e) => failed(&e),
        Ok(Err(_)) => ExitCode::FAILURE,
    }
}

/// Says why to the server, which reads the stderr of a process that ended.
#[expect(clippy::disallowed_methods, reason = "the server reads this process's stderr")]
fn failed(error: &io::Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}

/// Until the end of its input.
fn serve(confined: &Sandbox, mut flush_each: u32) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, Pipes);
    let mut to = BufWriter::with_capacity(BUFFER_BYTES, Pipes);
    let (mut evaluator, mut question) = (Evaluator::default(), Vec::new());
    let mut since = Instant::now();
    loop {
        let is_first = from.buffer().is_empty();
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
        confined.reset_cpu_timer()?;
        if is_first {
            since = Instant::now();
        }
        question.resize(u32::from_le_bytes(length) as usize, 0);
        from.read_exact(&mut question)?;
        confined.begin(STAGE_INPUT);
        let mut take = Decoder(&question);
        let request = take.request().ok_or(io::ErrorKind::InvalidData)?;
        let answer = take
            .scene(|scene| evaluator.answer(&request, scene, &|stage| confined.set_stage(stage)));
        let answer = answer.ok_or(io::ErrorKind::InvalidData)?;
        protocol::write_answer(&answer, &mut to)?;
        let is_last = from.buffer().is_empty();
        if is_last || flush_each > 0 || since.elapsed() > HELD_BACK {
            flush_each = flush_each.saturating_sub(1);
            to.flush()?;
            since = Instant::now();
        }
        confined.set_stage(0);
        if question.capacity() > QUESTION_BYTES_MAX {
            question = Vec::new();
        }
    }
}

/// stdin and stdout, without what std puts between.
struct Pipes;

impl Read for Pipes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(rustix::stdio::stdin(), buffer)?)
    }
}

impl Write for Pipes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
