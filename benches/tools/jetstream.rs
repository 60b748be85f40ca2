//! Publishes to a stream with async-nats alone: as many messages in flight as a handler has, each with an id like a handler's. This is the
//! bound of a handler with `jetstream`.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt, stream};

use crate::BODY;

/// The headers of a Hooktrail message, about as long as they usually are.
const HEADERS: [(&str, &str); 8] = [
    ("Hooktrail-Source", "paminga"),
    ("Hooktrail-Event", "1234567"),
    ("Hooktrail-Handler", "forward"),
    ("Hooktrail-Received-At", "2026-11-30T12:00:00.000Z"),
    ("Hooktrail-Ip", "192.0.2.1"),
    ("Hooktrail-Method", "POST"),
    ("Hooktrail-Path", "/hooks/paminga"),
    (
        "Hooktrail-Headers",
        r#"{"content-length":"700","content-type":"application/json","host":"127.0.0.1:8080"}"#,
    ),
];

/// Creates the stream if there is none, and publishes `count` messages.
pub fn run(
    server: &str,
    stream: &str,
    count: usize,
    in_flight: usize,
    headers: bool,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(publish(server, stream, count, in_flight, headers))
}

async fn publish(
    server: &str,
    stream: &str,
    count: usize,
    in_flight: usize,
    headers: bool,
) -> anyhow::Result<()> {
    let client = async_nats::connect(server).await.map_err(anyhow::Error::from)?;
    let context = ContextBuilder::new().max_ack_inflight(in_flight).build(client);
    let subject = format!("{stream}.paminga");
    let config = Config {
        name: stream.to_owned(),
        subjects: vec![format!("{stream}.>")],
        storage: StorageType::File,
        ..Config::default()
    };
    context.get_or_create_stream(config).await?;
    let started_at = Instant::now();
    let sent = stream::iter(0..count).map(|number| {
        let mut message =
            PublishMessage::build().payload(BODY.into()).message_id(message_id(number));
        for (name, value) in HEADERS.iter().filter(|_| headers) {
            message = message.header(*name, *value);
        }
        let (context, subject) = (&context, subject.clone());
        async move { context.send_publish(subject, message).await?.await }
    });
    let mut results = sent.buffer_unordered(in_flight);
    while let Some(result) = results.next().await {
        result?;
    }
    let seconds = started_at.elapsed().as_secs_f64();
    println!(r#"{{"rate":{:.0},"seconds":{seconds:.3}}}"#, count as f64 / seconds);
    Ok(())
}

/// An id like that of a handler: the time, the process and the number of the message, and the name of the handler.
fn message_id(number: usize) -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let [.., a, b, c, d, e, f] = since_1970.as_millis().to_be_bytes();
    let mut uid = vec![a, b, c, d, e, f];
    uid.extend(std::process::id().to_be_bytes());
    let [_, _, number @ ..] = (number as u64).to_be_bytes();
    uid.extend(number);
    format!("{}-forward-0-0", URL_SAFE_NO_PAD.encode(uid))
}
