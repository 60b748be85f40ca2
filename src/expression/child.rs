//! The other side: `hooktrail __expression`, started by the pool and by nobody else. Reads questions
//! on stdin and answers on stdout, one by one, until there are no more, or until it is ended by the
//! limits that it sets itself.

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::ExitCode;

use super::evaluate::{Evaluator, STAGE_INPUT};
use super::wire::{self, Take};
use crate::process::{Confined, confine, use_one_heap};

/// The command that starts it, hidden from help.
pub const COMMAND: &str = "__expression";

/// What a process of this binary may have for an event, over what it has at its start. The stack
/// that it works on is there already; both together are 256 MiB.
const MEMORY_BYTES: u64 = (256 << 20) - STACK_BYTES as u64;

/// Holds whatever 4 KiB of text nest, twice over.
const STACK_BYTES: usize = 64 << 20;

/// A buffer that has grown larger is given back.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// `arguments`: those after the command.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let ms = arguments.next().and_then(|ms| ms.to_str()?.parse().ok());
    let Some(processor_ms) = ms else {
        return ExitCode::from(2);
    };
    use_one_heap();
    // What jaq has to say when it panics goes into the answer.
    std::panic::set_hook(Box::new(|_| {}));
    let thread = std::thread::Builder::new().name("expression".into()).stack_size(STACK_BYTES);
    let done = thread.spawn(move || {
        let confined = confine(processor_ms, MEMORY_BYTES)?;
        serve(&confined)
    });
    match done.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Until the end of its input.
fn serve(confined: &Confined) -> io::Result<()> {
    let (mut from, mut to) = (BufReader::new(Pipes), BufWriter::with_capacity(16 << 10, Pipes));
    let (mut evaluator, mut question) = (Evaluator::default(), Vec::new());
    loop {
        confined.set_stage(0);
        confined.begin()?;
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
        question.resize(u32::from_le_bytes(length) as usize, 0);
        from.read_exact(&mut question)?;
        confined.set_stage(STAGE_INPUT);
        let mut take = Take(&question);
        let request = take.request().ok_or(io::ErrorKind::InvalidData)?;
        let answer = take
            .scene(|scene| evaluator.answer(&request, scene, &|stage| confined.set_stage(stage)));
        let answer = answer.ok_or(io::ErrorKind::InvalidData)?;
        wire::write_answer(&answer, &mut to)?;
        to.flush()?;
        if question.capacity() > BUFFER_BYTES_MAX {
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
