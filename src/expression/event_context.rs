//! What an expression sees of an event: `.` is made of its body, the rest are variables.

/// An event as expressions see it, borrowed from whoever has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventContext<'a> {
    pub body: &'a [u8],
    pub content_type: Option<&'a str>,
    pub source: &'a str,
    /// Lower-case names, in their order; one that is repeated is joined with `", "`.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// What stood after `?`, as sent.
    pub query: Option<&'a str>,
    pub path: &'a str,
    /// The path's named segments, decoded.
    pub params: &'a [(String, String)],
    /// Empty: unknown, and null.
    pub ip: &'a str,
    /// Wall clock, milliseconds since 1970 in UTC.
    pub received_at_ms: i64,
    /// `$event`: in `transform`; else null.
    pub event_id: Option<i64>,
}
