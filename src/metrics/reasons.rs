//! The reasons that are values of labels. Both lists are fixed: a text that a sender can influence is never
//! a label.

/// Why a request was rejected with a 4xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionReason {
    NotFound,
    Method,
    Address,
    HeadTooLarge,
    TooLarge,
    Encoding,
    Signature,
    ContentType,
    MalformedBody,
    Timeout,
    RateLimit,
    QueueFull,
    /// The client disconnected before the end of the body, so it did not read the response.
    Disconnected,
}

impl RejectionReason {
    pub const ALL: [Self; 13] = [
        Self::NotFound,
        Self::Method,
        Self::Address,
        Self::HeadTooLarge,
        Self::TooLarge,
        Self::Encoding,
        Self::Signature,
        Self::ContentType,
        Self::MalformedBody,
        Self::Timeout,
        Self::RateLimit,
        Self::QueueFull,
        Self::Disconnected,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Method => "method",
            Self::Address => "address",
            Self::HeadTooLarge => "head_too_large",
            Self::TooLarge => "too_large",
            Self::Encoding => "encoding",
            Self::Signature => "signature",
            Self::ContentType => "content_type",
            Self::MalformedBody => "malformed_body",
            Self::Timeout => "timeout",
            Self::RateLimit => "rate_limit",
            Self::QueueFull => "queue_full",
            Self::Disconnected => "disconnected",
        }
    }

    /// Whether a request to a path without a source can have this reason.
    pub(super) fn needs_no_source(self) -> bool {
        matches!(self, Self::NotFound | Self::HeadTooLarge)
    }
}

/// Why a request got a 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnavailableReason {
    /// Less than `store.min_free_space` is free.
    DiskLow,
    /// The database cannot be written.
    Database,
    /// Too many requests wait for the writer.
    WriterFull,
    /// The bodies in flight have taken `max_inflight_size`.
    BodyMemory,
    /// Too many large requests wait for a check.
    CheckPool,
    /// An expression that the response needs was not evaluated in time.
    Expression,
    /// The dedupe key of the repeated event expired during the request.
    KeyExpired,
    /// The system gave no random number.
    Randomness,
}

impl UnavailableReason {
    pub const ALL: [Self; 8] = [
        Self::DiskLow,
        Self::Database,
        Self::WriterFull,
        Self::BodyMemory,
        Self::CheckPool,
        Self::Expression,
        Self::KeyExpired,
        Self::Randomness,
    ];

    /// What a person reads.
    pub fn text(self) -> &'static str {
        match self {
            Self::DiskLow => "disk low",
            Self::Database => "the database cannot be written",
            Self::WriterFull => "too many requests wait for the writer",
            Self::BodyMemory => "server.max_inflight_size is reached",
            Self::CheckPool => "too many large requests wait for a check",
            Self::Expression => "an expression was not evaluated in time",
            Self::KeyExpired => "the dedupe key of the repeated event expired during the request",
            Self::Randomness => "the system gave no random number",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::DiskLow => "disk_low",
            Self::Database => "database",
            Self::WriterFull => "writer_full",
            Self::BodyMemory => "body_memory",
            Self::CheckPool => "check_pool",
            Self::Expression => "expression",
            Self::KeyExpired => "key_expired",
            Self::Randomness => "randomness",
        }
    }
}
