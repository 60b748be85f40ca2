//! One binary of all tests that see the program from outside, a file a promise. The real binary runs
//! on a free port and in a temporary folder, driven over sockets and read with SQLite as its users
//! would; `scenario` is how each test reads like a sentence. `house` reads the sources, `systemd` the
//! units.

mod addresses;
mod alerts;
mod cgi;
mod cli;
mod commands;
mod connections;
mod deliveries;
mod expression;
mod faults;
mod files;
mod fuzzing;
mod house;
mod http;
mod intake;
mod killed;
mod large;
mod large_requests;
mod libraries;
mod limits;
mod log;
mod ownership;
mod pages;
mod promises;
mod redaction;
mod refusals;
mod reload;
mod replay;
mod restart;
mod scenario;
mod send;
mod senders;
mod service;
mod shipped;
mod shortage;
mod source_limits;
mod splits;
mod start;
mod systemd;
mod unprivileged;
mod urls;
mod warm;
