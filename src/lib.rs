//! Hooktrail: a webhook receiver that stores each webhook before it responds and records its outcome.
//!
//! ARCHITECTURE.md has an overview of the modules. `domain` defines the terms.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "unit tests start programs and read clocks to check the code that does"
    )
)]

mod admin;
mod app;
mod body_redaction;
mod cli;
mod clock;
mod config;
mod domain;
mod escape;
mod expander;
mod expression;
mod handler;
mod jetstream;
mod json;
mod log;
mod maintenance;
mod media_type;
mod metrics;
mod multipart;
mod notify;
mod numbers;
mod planner;
mod problems;
mod process;
mod recovery;
mod redact;
mod replay;
mod row_json;
mod scheduler;
mod store;
#[cfg(test)]
mod test_support;
mod time_input;
mod tls;
mod urlencoded;
mod verify;
mod web;
mod worker;

pub use cli::main;

/// The items that the benchmarks, fuzz targets and integration tests of this repository use. It may change at any time.
#[doc(hidden)]
pub mod internals;
