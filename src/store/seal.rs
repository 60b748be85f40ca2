//! The sealed trail: proof that nobody changed events, outcomes and rejections after they were stored.
//!
//! Each row has a digest of its columns that never change (`digest.rs`). Each transaction that inserts or removes rows
//! ends with a seal: a row of `seals` with the digests, and a chain value that depends on all seals before it
//! (`chain.rs`, `append.rs`). An operator who kept a chain value can check whether the database still contains it
//! (`head.rs`). `check.rs` compares the rows with their seals.
//! - Content that `retention` or `erase` removes has a separate digest, with a random salt. When it goes, the digest
//!   takes its place, and the row still agrees with its seal. Without the salt nobody can guess the content.
//! - Rows that are removed are marked, and counted in the chain (`removal.rs`). A seal without rows loses its digests.
//!   Its chain value stays as a checkpoint, because the next seal depends on it.

mod append;
mod chain;
mod check;
mod digest;
mod head;
mod removal;
mod unsealed;

pub(super) use append::{SealChain, skip_ids, write_pending};
pub(super) use chain::{NewEntries, SealedTable};
pub(super) use check::check_seals;
pub(super) use digest::{
    AttemptContent, AttemptFields, EventFields, RejectionFields, attempt_digest, count_digest,
    event_content_digest, event_digest, register_functions, rejection_digest,
};
pub use digest::{AttemptSeal, EventSeal};
pub use head::{HeadCheck, HeadSummary, SealHead, check_head, load_head};
pub(super) use removal::{record_count_removal, record_removal};
pub use unsealed::seal_unsealed_rows;
