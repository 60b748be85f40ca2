//! Measures the HTTP client of `url` handlers alone: each thread sends one POST after another over one
//! keep-alive connection.

use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime;

use crate::BODY;

pub fn run(url: &str, threads: usize, seconds: f64) -> anyhow::Result<()> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().context("the URL has no host")?.as_str();
    let length = Duration::from_secs_f64(seconds);
    let end = Instant::now() + length;
    let clients: Vec<anyhow::Result<(u64, u64)>> = std::thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| post_until(end, authority, uri.path()));
        let threads: Vec<_> = (0..threads).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client")).collect()
    });
    let (mut good, mut bad) = (0, 0);
    for client in clients {
        let (client_good, client_bad) = client?;
        good += client_good;
        bad += client_bad;
    }
    let rate = good as f64 / length.as_secs_f64();
    println!(r#"{{"rate": {rate:.1}, "good": {good}, "bad": {bad}}}"#);
    Ok(())
}

/// Sends requests over one connection until `end` or the first error, and counts good and bad ones.
fn post_until(end: Instant, authority: &str, path: &str) -> anyhow::Result<(u64, u64)> {
    runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        let mut good = 0;
        while Instant::now() < end {
            if post(&mut sender, authority, path).await.is_err() {
                return Ok((good, 1));
            }
            good += 1;
        }
        Ok((good, 0))
    })
}

async fn post(
    sender: &mut SendRequest<Full<Bytes>>,
    authority: &str,
    path: &str,
) -> anyhow::Result<()> {
    sender.ready().await?;
    let request = Request::post(path)
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, BODY.len())
        .header("idempotency-key", "the-key")
        .body(Full::new(Bytes::from_static(BODY)))?;
    sender.send_request(request).await?.into_body().collect().await?;
    Ok(())
}
