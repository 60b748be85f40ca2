//! Everything that a stranger's bytes go through at intake. By hand, for as long as one likes:
//! `cargo +nightly fuzz run intake`. tests/integration/fuzzing.rs does the same for a bounded time on any
//! compiler.
#![no_main]

#[path = "../intake.rs"]
mod intake;

libfuzzer_sys::fuzz_target!(|data: &[u8]| intake::intake(data));
