//! The sealed trail: proof that nobody changed events, outcomes and rejections after they were stored.
//!
//! Each row has a digest of its columns that never change (`digest.rs`). Each transaction that inserts rows ends with a
//! seal: a row of `seals` with the digests (`append.rs`). All seals are the leaves of a hash tree (`tree.rs`). An
//! operator who kept its root can check whether the database still contains it (`head.rs`, `check.rs`).
//! - Content that `retention` or `erase` removes has a separate digest, with a random salt. When it goes, the digest
//!   takes its place, and the row still agrees with its seal. Without the salt nobody can guess the content.
//! - Rows that are removed are marked. A seal without rows becomes a digest in the tree (`removal.rs`).

mod append;
mod check;
mod digest;
mod head;
mod removal;
mod tree;
mod unsealed;

pub(super) use append::{NewEntries, SealTree, SealedTable, write_pending};
pub(super) use check::{check_seals, is_wrong_type};
pub(super) use digest::{
    AttemptContent, AttemptFields, EventFields, RejectionFields, attempt_digest, count_digest,
    event_content_digest, event_digest, register_functions, rejection_digest,
};
pub use digest::{AttemptSeal, EventSeal};
pub use head::{HeadSummary, SealHead, load_head};
pub(super) use removal::{record_count_removal, record_removal};
pub use unsealed::seal_unsealed_rows;
