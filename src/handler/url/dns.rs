//! Looks up the addresses of a host with the system's resolver (`getaddrinfo`), which can't be
//! cancelled.
//!
//! So each lookup runs on a separate thread, and the caller may stop waiting for it. The number
//! of these threads is bounded. Otherwise lookups that hang could pile up when a name server does
//! not respond.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::call_context::{CallError, wait_for};
use crate::process::is_shortage;

/// The maximum number of concurrent lookups of all handlers.
const MAX_LOOKUPS: usize = 64;

/// The maximum number of addresses of one host that are tried.
const MAX_ADDRESSES: usize = 8;

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// Counts one lookup until it is dropped.
struct LookupPermit;

impl LookupPermit {
    fn new() -> Option<Self> {
        let increment = |count: usize| (count < MAX_LOOKUPS).then_some(count + 1);
        LOOKUPS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, increment).ok().map(|_| Self)
    }
}

impl Drop for LookupPermit {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns the addresses of `host`, the preferred ones first. There is at least one.
pub(super) fn resolve_host(host: &str, port: u16) -> Result<Vec<SocketAddr>, CallError> {
    let unbracketed =
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = unbracketed.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    look_up(host, move |host| (host, port).to_socket_addrs().map(|found| found.collect()))
}

fn look_up(
    host: &str,
    resolve: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>, CallError> {
    let failed = |reason: String| CallError::NotConnected(format!("{host}: {reason}"));
    let shortage = |reason: String| CallError::Shortage(format!("{host}: {reason}"));
    let permit = LookupPermit::new()
        .ok_or_else(|| shortage(format!("{MAX_LOOKUPS} DNS lookups are already waiting")))?;
    let done = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let done = Arc::new(done.map_err(|e| shortage(io::Error::from(e).to_string()))?);
    let found = Arc::new(Mutex::new(None));
    let (signal, slot, name) = (Arc::clone(&done), Arc::clone(&found), host.to_owned());
    let lookup = move || {
        let _permit = permit;
        let all = resolve(&name);
        *slot.lock() = Some(all);
        let _ = rustix::io::write(&*signal, &1_u64.to_ne_bytes());
    };
    std::thread::Builder::new()
        .name("lookup".to_owned())
        .spawn(lookup)
        .map_err(|e| shortage(e.to_string()))?;
    wait_for(&*done, PollFlags::IN)?;
    let found = found.lock().take();
    match found {
        Some(Ok(all)) if !all.is_empty() => Ok(all.into_iter().take(MAX_ADDRESSES).collect()),
        Some(Err(e)) if e.raw_os_error().is_some_and(is_shortage) => Err(shortage(e.to_string())),
        Some(Err(e)) => Err(failed(e.to_string())),
        Some(Ok(_)) | None => Err(failed("it has no address".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::call_context::CallGuard;
    use super::*;
    use crate::process::CancelToken;

    fn begin_call(timeout: Duration) -> (CancelToken, CallGuard) {
        let stop = CancelToken::new().unwrap();
        let call = CallGuard::begin(&stop, timeout);
        (stop, call)
    }

    #[test]
    fn an_address_needs_no_lookup() {
        for (host, expected) in [("127.0.0.1", "127.0.0.1:80"), ("[::1]", "[::1]:80")] {
            let found = resolve_host(host, 80).unwrap();
            assert_eq!(found, [expected.parse::<SocketAddr>().unwrap()]);
        }
    }

    #[test]
    fn a_host_name_is_looked_up() {
        let (_stop, _exchange) = begin_call(Duration::from_secs(60));
        assert!(
            resolve_host("localhost", 80).unwrap().iter().all(|found| found.ip().is_loopback())
        );
    }

    #[test]
    fn a_host_that_is_not_found_is_named_in_the_error() {
        let (_stop, _exchange) = begin_call(Duration::from_secs(60));
        let not_found = |_: &str| Err(io::Error::other("no such host"));
        let found = look_up("crm.example.com", not_found);
        assert_eq!(found, Err(CallError::NotConnected("crm.example.com: no such host".into())));
        let none = look_up("crm.example.com", |_| Ok(Vec::new()));
        assert_eq!(none, Err(CallError::NotConnected("crm.example.com: it has no address".into())));
    }

    #[test]
    fn a_lookup_that_hangs_ends_at_the_timeout_or_when_it_is_cancelled() {
        let hang = |_: &str| {
            std::thread::park_timeout(Duration::from_secs(60));
            Ok(Vec::new())
        };
        let (_stop, call) = begin_call(Duration::from_millis(1));
        assert_eq!(look_up("slow.example.com", hang), Err(CallError::TimedOut));
        drop(call);
        let (stop, _exchange) = begin_call(Duration::from_secs(60));
        stop.cancel();
        assert_eq!(look_up("slow.example.com", hang), Err(CallError::Stopped));
    }
}
