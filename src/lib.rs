//! Hooktrail: a webhook receiver that keeps a trail.
//!
//! ARCHITECTURE.md is the map; `domain` has the words.

pub mod clock;
pub mod config;
pub mod dispatcher;
pub mod domain;
pub mod handler;
pub mod process;
pub mod queue;
pub mod store;
pub mod worker;
