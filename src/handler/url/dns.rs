//! A host's addresses: found by the system (`getaddrinfo`), which can't be told to stop.
//!
//! So each lookup has a thread of its own, and whoever waits for it may leave. Those threads are
//! bounded: where names are not answered, lookups that hang must not pile up.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::call_context::{CallError, wait_for};
use crate::process::is_shortage;

/// Lookups that may hang at once, over all handlers.
const LOOKUPS_MAX: usize = 64;

/// More addresses of one host are not tried.
const ADDRESSES_MAX: usize = 8;

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// A lookup that is counted until it is dropped.
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let one_more = |now: usize| (now < LOOKUPS_MAX).then_some(now + 1);
        LOOKUPS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The addresses of `host`, the best first; at least one.
pub(super) fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, CallError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    look_up(host, move |host| (host, port).to_socket_addrs().map(|found| found.collect()))
}

fn look_up(
    host: &str,
    find: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>, CallError> {
    let failed = |why: String| CallError::NotConnected(format!("{host}: {why}"));
    let lacking = |why: String| CallError::NotNow(format!("{host}: {why}"));
    let counted = Counted::new()
        .ok_or_else(|| lacking(format!("{LOOKUPS_MAX} lookups wait for an answer already")))?;
    let done = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let done = Arc::new(done.map_err(|e| lacking(io::Error::from(e).to_string()))?);
    let found = Arc::new(Mutex::new(None));
    let (tell, put, name) = (Arc::clone(&done), Arc::clone(&found), host.to_owned());
    let lookup = move || {
        let _counted = counted;
        let all = find(&name);
        *put.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
        let _ = rustix::io::write(&*tell, &1_u64.to_ne_bytes());
    };
    std::thread::Builder::new()
        .name("lookup".to_owned())
        .spawn(lookup)
        .map_err(|e| lacking(e.to_string()))?;
    wait_for(&*done, PollFlags::IN)?;
    let found = found.lock().unwrap_or_else(PoisonError::into_inner).take();
    match found {
        Some(Ok(all)) if !all.is_empty() => Ok(all.into_iter().take(ADDRESSES_MAX).collect()),
        Some(Err(e)) if e.raw_os_error().is_some_and(is_shortage) => Err(lacking(e.to_string())),
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

    fn within(timeout: Duration) -> (CancelToken, CallGuard) {
        let stop = CancelToken::new().unwrap();
        let exchange = CallGuard::begin(&stop, timeout);
        (stop, exchange)
    }

    #[test]
    fn an_address_needs_no_lookup() {
        for (host, expected) in [("127.0.0.1", "127.0.0.1:80"), ("[::1]", "[::1]:80")] {
            let found = addresses(host, 80).unwrap();
            assert_eq!(found, [expected.parse::<SocketAddr>().unwrap()]);
        }
    }

    #[test]
    fn a_name_is_looked_up() {
        let (_stop, _exchange) = within(Duration::from_secs(60));
        assert!(addresses("localhost", 80).unwrap().iter().all(|found| found.ip().is_loopback()));
    }

    #[test]
    fn a_name_that_is_not_found_says_so() {
        let (_stop, _exchange) = within(Duration::from_secs(60));
        let gone = |_: &str| Err(io::Error::other("no such host"));
        let found = look_up("crm.example.com", gone);
        assert_eq!(found, Err(CallError::NotConnected("crm.example.com: no such host".into())));
        let none = look_up("crm.example.com", |_| Ok(Vec::new()));
        assert_eq!(none, Err(CallError::NotConnected("crm.example.com: it has no address".into())));
    }

    #[test]
    fn a_lookup_that_hangs_holds_nobody() {
        let hang = |_: &str| {
            std::thread::park_timeout(Duration::from_secs(60));
            Ok(Vec::new())
        };
        let (_stop, exchange) = within(Duration::from_millis(1));
        assert_eq!(look_up("slow.example.com", hang), Err(CallError::TimedOut));
        drop(exchange);
        let (stop, _exchange) = within(Duration::from_secs(60));
        stop.set();
        assert_eq!(look_up("slow.example.com", hang), Err(CallError::Stopped));
    }
}
