//! End to end: the real binary on a free port and a temporary folder, driven over sockets and read
//! with SQLite, as its users would. A file a promise; `scenario` is how each test reads like a
//! sentence. `house` reads the sources instead, and `systemd` the units.

mod cli;
mod commands;
mod faults;
mod house;
mod intake;
mod pages;
mod refusals;
mod reload;
mod restart;
mod scenario;
mod systemd;
