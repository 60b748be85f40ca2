//! `cargo +nightly fuzz run intake`

#![no_main]

#[path = "../intake.rs"]
mod intake;

libfuzzer_sys::fuzz_target!(|data: &[u8]| intake::intake(data));
