//! One connection, on which hyper sends requests one after another.
//!
//! A worker is a thread that blocks until its attempt ends. So each connection has a separate
//! runtime, which runs on the thread that uses the connection, and only while that thread waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::http::response::Parts;
use hyper_util::rt::TokioIo;
use tokio::runtime::{self, Runtime};

use super::call::Call;
use super::call_error::CallError;
use super::connect::Route;
use super::exchange_stream::ExchangeStream;
use super::http1;

/// A response, as far as it is needed.
#[derive(Debug)]
pub(super) struct ReceivedResponse {
    pub head: Parts,
    /// The start of the body.
    pub body: Vec<u8>,
    /// Why the body is incomplete, if reading it failed.
    pub error: Option<CallError>,
    /// Nothing is left to read.
    is_complete: bool,
}

/// An open connection to the server of a URL.
#[derive(Debug)]
pub(super) struct UrlConnection {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    /// The number of bytes received during the current exchange.
    received_bytes: Arc<AtomicUsize>,
}

impl UrlConnection {
    pub fn open(route: &Route, call: &Call<'_>) -> Result<Self, CallError> {
        let first_host = &route.proxy.as_ref().unwrap_or(&route.target).host;
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|e| CallError::from_connect(first_host, &e))?;
        let received_bytes = Arc::<AtomicUsize>::default();
        let sender = runtime.block_on(call.bound(async {
            let stream = route.open(call).await?;
            let stream = ExchangeStream::new(stream, Arc::clone(&received_bytes));
            let handshake = http1::settings().handshake(TokioIo::new(stream));
            let (sender, driver) = handshake.await.map_err(|e| http1::response_error(&e, 0))?;
            tokio::spawn(driver);
            Ok(sender)
        }))?;
        Ok(Self { runtime, sender, received_bytes })
    }

    /// Returns whether an idle connection can be used again. The server may have closed it, or sent bytes
    /// that no request asked for.
    pub fn is_open(&self) -> bool {
        // During the first turn the runtime sees what arrived, and during the second hyper reads it.
        self.runtime.block_on(async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        });
        self.sender.is_ready()
    }

    /// Sends a request and reads its response, but no more than `max_bytes` of the body.
    ///
    /// # Errors
    /// No complete head was received.
    pub fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        call: &Call<'_>,
        max_bytes: usize,
    ) -> Result<ReceivedResponse, CallError> {
        self.received_bytes.store(0, Ordering::Relaxed);
        let received_bytes = &self.received_bytes;
        let failed = |e| http1::response_error(&e, received_bytes.load(Ordering::Relaxed));
        let sent = self.sender.send_request(request);
        self.runtime.block_on(async {
            let head = call.bound(async { sent.await.map_err(failed) }).await?;
            let (head, mut incoming) = head.into_parts();
            call.set_phase("reading the response");
            let mut body = Vec::new();
            let read = call.bound(async {
                while body.len() < max_bytes {
                    let Some(frame) = incoming.frame().await else { return Ok(true) };
                    if let Ok(data) = frame.map_err(failed)?.into_data() {
                        body.extend_from_slice(&data);
                    }
                }
                Ok(false)
            });
            let read = read.await;
            body.truncate(max_bytes);
            let is_complete = read == Ok(true);
            Ok(ReceivedResponse { head, body, error: read.err(), is_complete })
        })
    }

    /// Returns whether nothing was received during the last exchange. On an idle connection, this means that
    /// the server closed it, and most likely did not read the request.
    pub fn has_received_nothing(&self) -> bool {
        self.received_bytes.load(Ordering::Relaxed) == 0
    }

    /// Returns whether the connection can be kept after `response`: both sides have sent all they had to, and
    /// neither wants to close it.
    pub fn is_reusable_after(&self, response: &ReceivedResponse) -> bool {
        response.is_complete && self.sender.is_ready()
    }
}
