<<<<<<< HEAD
//! One binary of all tests that see the program from outside, a file a promise. `house` reads the
//! sources, `systemd` the units; the others start the program itself (`CARGO_BIN_EXE_hooktrail`).

mod house;
mod systemd;
=======
//! End to end: the real binary on a free port and a temporary folder, driven over sockets and read
//! with SQLite, as its users would. A file a promise; `scenario` is how each test reads like a
//! sentence.

mod cli;
mod commands;
mod faults;
mod intake;
mod refusals;
mod reload;
mod restart;
mod scenario;
>>>>>>> main
