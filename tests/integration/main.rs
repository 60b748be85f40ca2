//! The integration tests, one file for each topic. They run the real binary on a free port and in a
//! temporary folder, send requests over sockets, and read the database with SQLite as a user would.
//!
//! `support` has what the tests share. `architecture` checks the source code and `systemd` the units.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "clippy exempts only test functions, and helpers of tests may do the same"
)]

mod admin_access;
mod admin_actions;
mod admin_commands;
mod admin_lists;
mod admin_openapi;
mod admin_pages;
mod admin_streams;
mod alerts;
mod architecture;
mod backup;
mod batch_handlers;
mod bulk_commands;
mod cgi_handlers;
mod check;
mod cli;
mod client_certificates;
mod client_ip;
mod command_handlers;
mod connections;
mod console;
mod crash_recovery;
mod database_access;
mod deferred_events;
mod docs;
mod duplicates;
mod erase;
mod evaluator_pool;
mod example_config;
mod examples;
mod expressions;
mod file_permissions;
mod file_systems;
mod flow_control;
mod fuzzing;
mod guarantees;
mod handshakes;
mod help;
mod intake;
mod jetstream_cluster;
mod jetstream_handlers;
mod jetstream_sources;
mod large_requests;
mod listeners;
mod lists;
mod litestream;
mod live_systemd;
mod log;
mod metrics;
mod nats_servers;
mod ownership;
mod package;
mod prefetch;
mod proxies;
mod redacted_values;
mod redaction;
mod rejections;
mod reload;
mod replay;
mod replay_protection;
mod resource_shortage;
mod restart;
mod retention;
mod seals;
mod send;
mod sender_presets;
mod sender_sdks;
mod settled_jobs;
mod show;
mod source_limits;
mod sql;
mod startup;
mod status;
mod storage_failures;
mod stream_handlers;
mod support;
mod systemd;
mod tls;
mod tmpfs;
mod unprivileged;
mod upgrades;
mod url_handlers;
