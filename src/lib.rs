//! Hooktrail: a webhook receiver that keeps a trail.
//!
//! ARCHITECTURE.md is the map; `domain` has the words.

pub mod clock;
pub mod config;
pub mod domain;
pub mod queue;
pub mod store;
