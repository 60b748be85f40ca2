//! Servers that store each webhook in a queue that a user might pick instead of Hooktrail, and respond 202
//! when the queue says that it is stored. `benches/compare` starts and measures them.
//!
//! All share the front of benches/tools/noop.rs: actix-web with two workers. benches/README.md has the
//! settings of each queue and what it loses in a power cut.

use std::rc::Rc;
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Context;

use crate::queue::Queue;

mod beanstalkd;
mod nats;
mod postgres;
mod queue;
mod redis;
mod sqlite;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [queue, listen, place] = arguments.as_slice() else {
        anyhow::bail!("usage: peers beanstalkd|nats|postgres|redis|sqlite LISTEN ADDRESS_OR_FILE");
    };
    actix_web::rt::System::new().block_on(async {
        match queue.as_str() {
            "beanstalkd" => serve::<beanstalkd::Beanstalkd>(listen, place).await,
            "nats" => serve::<nats::JetStream>(listen, place).await,
            "postgres" => serve::<postgres::Postgres>(listen, place).await,
            "redis" => serve::<redis::RedisStream>(listen, place).await,
            "sqlite" => serve::<sqlite::Sqlite>(listen, place).await,
            other => anyhow::bail!("{other}: not a queue"),
        }
    })
}

async fn serve<Q: Queue>(listen: &str, place: &str) -> anyhow::Result<()> {
    let shared = Q::prepare(place).await.with_context(|| place.to_owned())?;
    let place = place.to_owned();
    HttpServer::new(move || {
        let (place, shared) = (place.clone(), shared.clone());
        App::new()
            .data_factory(move || {
                let (place, shared) = (place.clone(), shared.clone());
                async move { Q::connect(&place, shared).await.map(Rc::new) }
            })
            .default_service(web::to(store::<Q>))
    })
    .workers(2)
    .backlog(2048)
    .keep_alive(Duration::from_secs(75))
    .bind(listen)?
    .run()
    .await?;
    Ok(())
}

async fn store<Q: Queue>(queue: web::Data<Rc<Q>>, body: web::Bytes) -> HttpResponse {
    match queue.put(body).await {
        Ok(()) => HttpResponse::Accepted().content_type("application/json").body("{}"),
        Err(e) => HttpResponse::ServiceUnavailable().body(format!("{e:#}")),
    }
}
