//! The items that the benchmarks, fuzz targets and integration tests use. Everything else is private to the
//! crate, so the compiler finds code that nothing uses.

pub use crate::cli::Cli;
pub use crate::clock::wall_ms;
pub use crate::planner::source_dedupe_key;
pub use crate::web::content_type::check_content_type;

pub mod config {
    pub use crate::config::{
        Accept, CommandTarget, Config, Dedupe, Durability, EMBEDDED, EMBEDDED_HANDLERS, Handler,
        HandlerKind, LoadedConfig, Mode, SecretRef, Secrets, load, parse_duration,
        read_secrets_under,
    };
}

pub mod domain {
    pub use crate::domain::breaker::BreakerPolicy;
    pub use crate::domain::job::PublicState;
    pub use crate::domain::job_plan::{JobKeys, JobPlan, JobSpec};
    pub use crate::domain::{
        Claim, Event, EventId, HandlerId, Headers, JobId, NextStep, Outcome, SourceId,
    };
}

pub mod expression {
    pub use crate::expression::{
        Busy, EvaluationResult, EvaluatorPool, EventContext, Expression, ExpressionSet,
        HandlerDecision, HandlerExpressions, Priority, unsandboxed,
    };
}

pub mod handler {
    pub use crate::handler::{LookupLimit, Task, runner_for};
    pub use crate::jetstream::NatsThread;
}

pub mod process {
    pub use crate::process::{CancelToken, GRACE, Supervisor};
}

pub mod scheduler {
    pub use crate::scheduler::Scheduler;
    pub use crate::scheduler::handler_schedule::HandlerLimits;
}

pub mod store {
    pub use crate::store::effects::Effects;
    pub use crate::store::jobs::finish::AttemptInserts;
    pub use crate::store::jobs::{AttemptRecord, ClaimedJob, claim, finish};
    pub use crate::store::seal::seal_unsealed_rows;
    pub use crate::store::transaction_end::{write_directly, write_last};
    pub use crate::store::write_transaction::WriteTransaction;
    pub use crate::store::writer_cache::WriterCache;
    pub use crate::store::{Store, checkpoint, in_transaction, open};

    pub mod events {
        pub use crate::store::events::{NewEvent, insert_single_event};
    }
    pub mod registry {
        pub use crate::store::registry::{HandlerRegistration, register};
    }
}

pub mod verify {
    pub use crate::verify::{OutgoingRequest, PRESETS, Scheme, SignedRequest};
}
