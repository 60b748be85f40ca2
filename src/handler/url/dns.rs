//! Looks up the addresses of a host with the system's resolver (`getaddrinfo`), which can't be
//! cancelled.
//!
//! So each lookup runs on a separate thread, and the caller may stop waiting for it. The number
//! of these threads is bounded. Otherwise lookups that hang could pile up when a name server does
//! not respond.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use super::call_error::CallError;

/// The maximum number of concurrent lookups of all handlers.
const MAX_LOOKUPS: usize = 64;

/// The maximum number of addresses of one host that are tried.
const MAX_ADDRESSES: usize = 8;

/// The bound on concurrent lookups. Its clones share it.
#[derive(Clone, Debug)]
pub struct LookupLimit(Arc<Semaphore>);

impl Default for LookupLimit {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

/// Returns the addresses of `host`, the preferred ones first. There is at least one.
pub(super) async fn resolve_host(
    host: &str,
    port: u16,
    lookups: &LookupLimit,
) -> Result<Vec<SocketAddr>, CallError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let resolve = move |host: &str| (host, port).to_socket_addrs().map(Iterator::collect);
    look_up(host, lookups, resolve).await
}

async fn look_up(
    host: &str,
    lookups: &LookupLimit,
    resolve: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>, CallError> {
    let permit = Arc::clone(&lookups.0).try_acquire_owned().map_err(|_| {
        CallError::Shortage(format!("{host}: {MAX_LOOKUPS} DNS lookups are already waiting"))
    })?;
    let (result, found) = oneshot::channel();
    let name = host.to_owned();
    let lookup = move || {
        let _permit = permit;
        let _ = result.send(resolve(&name));
    };
    std::thread::Builder::new()
        .name("lookup".to_owned())
        .spawn(lookup)
        .map_err(|e| CallError::from_connect(host, &e))?;
    match found.await {
        Ok(Ok(all)) if !all.is_empty() => Ok(all.into_iter().take(MAX_ADDRESSES).collect()),
        Ok(Err(e)) => Err(CallError::from_connect(host, &e)),
        Ok(Ok(_)) | Err(_) => Err(CallError::NotConnected(format!("{host}: it has no address"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::call::Call;
    use super::*;
    use crate::process::CancelToken;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(future)
    }

    fn find(
        host: &str,
        resolve: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Result<Vec<SocketAddr>, CallError> {
        block_on(look_up(host, &LookupLimit::default(), resolve))
    }

    #[test]
    fn an_address_needs_no_lookup() {
        let none = LookupLimit(Arc::new(Semaphore::new(0)));
        for (host, expected) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
            let found = block_on(resolve_host(host, 80, &none)).unwrap();
            assert_eq!(found, [expected.parse::<SocketAddr>().unwrap()]);
        }
    }

    #[test]
    fn a_host_name_is_looked_up() {
        let found = block_on(resolve_host("localhost", 80, &LookupLimit::default())).unwrap();
        assert!(found.iter().all(|found| found.ip().is_loopback()));
    }

    #[test]
    fn a_host_that_is_not_found_is_named_in_the_error() {
        let found = find("crm.example.com", |_| Err(io::Error::other("no such host")));
        assert_eq!(found, Err(CallError::NotConnected("crm.example.com: no such host".into())));
        let none = find("crm.example.com", |_| Ok(Vec::new()));
        assert_eq!(none, Err(CallError::NotConnected("crm.example.com: it has no address".into())));
    }

    #[test]
    fn a_lookup_that_lacks_descriptors_is_a_shortage() {
        let found = find("crm.example.com", |_| Err(io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(matches!(found, Err(CallError::Shortage(_))), "{found:?}");
    }

    #[test]
    fn lookups_beyond_the_limit_are_a_shortage_until_one_ends() {
        let one = LookupLimit(Arc::new(Semaphore::new(1)));
        let (end, ended) = std::sync::mpsc::sync_channel::<()>(0);
        let hang = move |_: &str| {
            let _ = ended.recv();
            Ok(Vec::new())
        };
        let lookup = look_up("slow.example.com", &one, hang);
        let second = block_on(async {
            tokio::select! {
                biased;
                _ = lookup => unreachable!(),
                second = look_up("crm.example.com", &one, |_| Ok(Vec::new())) => second,
            }
        });
        let reason = "crm.example.com: 64 DNS lookups are already waiting";
        assert_eq!(second, Err(CallError::Shortage(reason.into())));
        drop(end);
        block_on(one.0.acquire()).unwrap().forget();
    }

    #[test]
    fn a_lookup_that_hangs_ends_at_the_timeout_or_when_it_is_cancelled() {
        let hang = |_: &str| {
            std::thread::park_timeout(Duration::from_secs(60));
            Ok(Vec::new())
        };
        let (stop, lookups) = (CancelToken::new().unwrap(), LookupLimit::default());
        let call = Call::new(&stop, &lookups, Duration::from_millis(1));
        let timed_out = block_on(call.bound(look_up("slow.example.com", &lookups, hang)));
        assert_eq!(timed_out, Err(CallError::TimedOut));
        let call = Call::new(&stop, &lookups, Duration::from_secs(60));
        stop.cancel();
        let cancelled = block_on(call.bound(look_up("slow.example.com", &lookups, hang)));
        assert_eq!(cancelled, Err(CallError::Stopped));
    }
}
