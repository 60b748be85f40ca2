//! Exit codes, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    hooktrail::cli::main()
}
