//! One binary of all tests that see the program from outside, a file a promise. `house` reads the
//! sources, `systemd` the units; the others start the program itself (`CARGO_BIN_EXE_hooktrail`).

mod house;
mod systemd;
