//! The main function of an evaluator process: `hooktrail __expression`, which only the pool starts.
//! It reads requests on stdin and writes responses on stdout, one by one. It ends with its input,
//! or by the limits that it sets itself.

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::evaluate::{Evaluator, STAGE_INPUT};
use super::protocol;
use crate::process::{Sandbox, apply_limits, enter_sandbox_early};

/// The command that starts an evaluator, hidden from help.
pub const COMMAND: &str = "__expression";

/// Memory that an evaluator may use for an event, beyond what it has at its start. That includes
/// the stack; both together are 256 MiB.
const MEMORY_BYTES: u64 = (256 << 20) - STACK_BYTES as u64;

/// Stack of the evaluating thread. It holds twice what any nesting of 4 KiB of text needs.
const STACK_BYTES: usize = 64 << 20;

/// The capacity of a pipe.
const BUFFER_BYTES: usize = 64 << 10;

/// The buffer of a larger request is freed after it.
const MAX_REQUEST_BUFFER_BYTES: usize = 1 << 20;

/// Responses to requests that arrived together leave together, but none waits longer than this.
const MAX_FLUSH_DELAY: Duration = Duration::from_micros(200);

/// Runs an evaluator. `arguments` follow the command: the processor time for each event in
/// milliseconds, the number of responses to flush one by one, and 1 if nobody waits for the responses.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let numbers = arguments.map(|number| number.to_str().and_then(|text| text.parse().ok()));
    let numbers = numbers.collect::<Option<Vec<u32>>>();
    let Some(&[processor_ms, flush_each, is_background]) = numbers.as_deref() else {
        return ExitCode::from(2);
    };
    if let Err(e) = enter_sandbox_early(is_background != 0) {
        return report_error(&e);
    }
    // A panic message of jaq goes into the response.
    std::panic::set_hook(Box::new(|_| {}));
    let builder = std::thread::Builder::new().name("expression".into()).stack_size(STACK_BYTES);
    let thread = builder.spawn(move || {
        let sandbox = apply_limits(processor_ms, MEMORY_BYTES)?;
        serve(&sandbox, flush_each)
    });
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(e))) | Err(e) => report_error(&e),
        Ok(Err(_)) => ExitCode::FAILURE,
    }
}

/// Reports an error to the server, which reads stderr after the process has ended.
#[expect(clippy::disallowed_methods, reason = "the server reads this process's stderr")]
fn report_error(error: &io::Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}

/// Answers requests until the end of input.
fn serve(sandbox: &Sandbox, mut flush_each: u32) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, Pipes);
    let mut to = BufWriter::with_capacity(BUFFER_BYTES, Pipes);
    let (mut evaluator, mut request_bytes) = (Evaluator::default(), Vec::new());
    let mut last_flush = Instant::now();
    loop {
        let is_first_of_batch = from.buffer().is_empty();
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
        sandbox.reset_cpu_timer()?;
        if is_first_of_batch {
            last_flush = Instant::now();
        }
        request_bytes.resize(u32::from_le_bytes(length) as usize, 0);
        from.read_exact(&mut request_bytes)?;
        sandbox.begin(STAGE_INPUT);
        let result = protocol::decode_request(&request_bytes, |request, event| {
            evaluator.evaluate(request, event, &|stage| sandbox.set_stage(stage))
        });
        let mut result = result.map_err(|_| io::ErrorKind::InvalidData)?;
        protocol::write_result(&mut result, &mut to)?;
        let is_last_of_batch = from.buffer().is_empty();
        if is_last_of_batch || flush_each > 0 || last_flush.elapsed() > MAX_FLUSH_DELAY {
            flush_each = flush_each.saturating_sub(1);
            to.flush()?;
            last_flush = Instant::now();
        }
        sandbox.set_stage(0);
        if request_bytes.capacity() > MAX_REQUEST_BUFFER_BYTES {
            request_bytes = Vec::new();
        }
    }
}

/// stdin and stdout without the buffers and locks of std.
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
