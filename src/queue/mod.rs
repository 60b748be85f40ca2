//! Who may run now, and what happens after: decisions alone, no I/O.

pub mod dispatch;
pub mod lane;
pub mod limits;
pub mod retry;
