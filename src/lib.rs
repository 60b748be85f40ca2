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

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod escape;
pub mod expander;
pub mod expression;
pub mod handler;
pub mod json;
pub mod log;
pub mod maintenance;
pub mod media_type;
pub mod multipart;
pub mod notify;
pub mod planner;
pub mod process;
pub mod recovery;
pub mod redact;
pub mod replay;
pub mod scheduler;
pub mod store;
#[cfg(test)]
mod test_support;
pub mod urlencoded;
pub mod verify;
pub mod web;
pub mod worker;
