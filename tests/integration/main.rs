//! One binary of all tests that see the program from outside, a file a promise. The real binary runs
//! on a free port and in a temporary folder, driven over sockets and read with SQLite as its users
//! would; `support` has the server, the client and the doubles that the tests use. `architecture` reads the
//! sources, `systemd` the units.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the helpers of tests are no test functions, and a test may do what the program may not"
)]

mod alerts;
mod architecture;
mod cgi_handlers;
mod cli;
mod client_ip;
mod command_handlers;
mod connections;
mod crash_recovery;
mod deferred_events;
mod docs;
mod evaluator_pool;
mod example_config;
mod examples;
mod expressions;
mod file_permissions;
mod flow_control;
mod fuzzing;
mod guarantees;
mod intake;
mod large_requests;
mod log;
mod ownership;
mod persistent_processes;
mod redaction;
mod rejections;
mod reload;
mod replay;
mod replayed_deliveries;
mod resource_shortage;
mod restart;
mod send;
mod sender_presets;
mod sender_sdks;
mod source_limits;
mod startup;
mod storage_failures;
mod support;
mod systemd;
mod unprivileged;
mod url_handlers;
