//! The server of one listener: actix-server accepts, `connection` limits, actix-http and an `App`
//! respond.
//!
//! actix-web's own `HttpServer` does not accept our stream type, so this module combines its parts.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{Extensions, HttpService, KeepAlive, Protocol};
use actix_server::{Server, ServerHandle};
use actix_service::{
    IntoServiceFactory, ServiceFactory, ServiceFactoryExt, fn_service, map_config,
};
use actix_web::App;
use actix_web::dev::{AppConfig, ServiceRequest, ServiceResponse};
use actix_web::rt::net::{TcpStream, UnixStream};
use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection_stream::ConnectionStream;
use super::connections::{Connections, LINGER, TimeLimits};
use super::intake::{self, IntakeThread};
use super::{BoundSocket, IntakeState, health};

/// Which requests a listener handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    Intake,
    Admin,
}

/// The server of one listener, on a thread of actix.
pub struct RunningServer {
    handle: ServerHandle,
    thread: JoinHandle<()>,
    pub connections: Arc<Connections>,
}

impl RunningServer {
    /// Closes all connections.
    pub fn stop(self) {
        drop(self.handle.stop(false));
        let _ = self.thread.join();
    }
}

/// Starts a server on bound sockets.
///
/// # Errors
/// A thread cannot be created.
pub fn spawn_server(
    kind: ListenerKind,
    sockets: Vec<BoundSocket>,
    threads: usize,
    max_connections: usize,
    state: &Arc<IntakeState>,
) -> anyhow::Result<RunningServer> {
    let name = if kind == ListenerKind::Intake { "intake" } else { "admin" };
    let limits = Arc::clone(state);
    let connections = Connections::new(max_connections, move || {
        let config = limits.config.load();
        TimeLimits {
            request_timeout: config.server.request_timeout,
            keep_alive: config.server.keep_alive,
        }
    });
    let (started, start) = mpsc::sync_channel(1);
    let (run_connections, state) = (Arc::clone(&connections), Arc::clone(state));
    let run = move || {
        // Each thread accepts one connection more than its share, which waits for a slot.
        let connections_per_thread = max_connections.div_ceil(threads) + 1;
        let mut server = Server::build()
            .workers(threads)
            .max_concurrent_connections(connections_per_thread)
            .shutdown_timeout(1)
            .disable_signals();
        for socket in sockets {
            let (state, connections) = (Arc::clone(&state), Arc::clone(&run_connections));
            let added = match socket {
                BoundSocket::Tcp(tcp) => {
                    server.listen(name, tcp, move || tcp_service(kind, &state, &connections))
                }
                BoundSocket::Unix(unix) => {
                    server.listen_uds(name, unix, move || unix_service(kind, &state, &connections))
                }
            };
            match added {
                Ok(extended) => server = extended,
                Err(e) => {
                    let _ = started.send(Err(e));
                    return;
                }
            }
        }
        let system = actix_web::rt::System::new();
        let ended = system.block_on(async move {
            let running = server.run();
            let _ = started.send(Ok(running.handle()));
            actix_web::rt::spawn(run_connections.run_expiry());
            running.await
        });
        if let Err(e) = ended {
            log::error!("{name}: {e}");
        }
    };
    let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
    let handle = start.recv().context("the listener stopped while it was starting")??;
    Ok(RunningServer { handle, thread, connections })
}

fn tcp_service(
    kind: ListenerKind,
    state: &Arc<IntakeState>,
    connections: &Arc<Connections>,
) -> impl ServiceFactory<TcpStream, Config = ()> + use<> {
    let (connections, thread) = (Arc::clone(connections), connections.add_thread());
    let admit = move |tcp: TcpStream| {
        let connections = Arc::clone(&connections);
        async move {
            // A peer that has reset its connection has no address. Without one it would count as a
            // unix socket.
            let peer = tcp.peer_addr().map_err(DispatchError::Io)?;
            let stream = ConnectionStream::admit(tcp, &connections, thread)
                .await
                .map_err(DispatchError::Io)?;
            Ok((stream, Protocol::Http1, Some(peer)))
        }
    };
    fn_service(admit).and_then(http_service(kind, state))
}

fn unix_service(
    kind: ListenerKind,
    state: &Arc<IntakeState>,
    connections: &Arc<Connections>,
) -> impl ServiceFactory<UnixStream, Config = ()> + use<> {
    let (connections, thread) = (Arc::clone(connections), connections.add_thread());
    let admit = move |unix: UnixStream| {
        let connections = Arc::clone(&connections);
        async move {
            let stream = ConnectionStream::admit(unix, &connections, thread)
                .await
                .map_err(DispatchError::Io)?;
            Ok((stream, Protocol::Http1, None))
        }
    };
    fn_service(admit).and_then(http_service(kind, state))
}

/// HTTP/1.1 over a stream whose times `Connections` limits, not actix-http.
fn http_service<S>(
    kind: ListenerKind,
    state: &Arc<IntakeState>,
) -> impl ServiceFactory<
    (ConnectionStream<S>, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
> + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // Services rather than handlers: the extractors of a handler would take longer than its checks.
    let app = match kind {
        ListenerKind::Intake => {
            let thread = Rc::new(IntakeThread::new(state));
            App::new().default_service(fn_service(move |request: ServiceRequest| {
                let thread = Rc::clone(&thread);
                async move {
                    let (request, payload) = request.into_parts();
                    let response = intake::handle_webhook(&thread, &request, payload).await;
                    Ok(ServiceResponse::new(request, response))
                }
            }))
        }
        ListenerKind::Admin => {
            let shared = Arc::clone(state);
            App::new().default_service(fn_service(move |request: ServiceRequest| {
                let (request, payload) = request.into_parts();
                let response = health::handle_admin(&shared, &request, payload);
                std::future::ready(Ok(ServiceResponse::new(request, response)))
            }))
        }
    };
    let app = app.into_factory().map_err(|error| error.error_response());
    HttpService::build()
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(LINGER)
        .on_connect_ext(|stream: &ConnectionStream<S>, data: &mut Extensions| {
            data.insert(Arc::clone(stream.connection()));
        })
        .finish(map_config(app, |()| AppConfig::default()))
}
