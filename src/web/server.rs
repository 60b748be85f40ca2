//! The server of a listener: actix-server accepts, `connection` limits, actix-http and an `App`
//! respond.
//!
//! actix-web's own `HttpServer` does not accept our stream type, so this module combines its parts.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
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
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, ServiceRequest, ServiceResponse};
use actix_web::rt::net::{TcpStream, UnixStream};
use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite};

use super::client_subject::ClientStream;
use super::connection_stream::ConnectionStream;
use super::connections::{Connections, LINGER, TimeLimits};
use super::intake::{self, IntakeThread};
use super::{BoundSocket, IntakeState};

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

/// How a listener is served.
pub struct ListenerSettings {
    /// The name of its thread.
    pub name: &'static str,
    pub threads: usize,
    pub max_connections: usize,
    /// Counts its open connections.
    pub open_count: Arc<AtomicUsize>,
    /// How long a client may leave what was sent to it unread, before its connection is closed. `None`: the time limits
    /// of responses are enough.
    pub unread_timeout: Option<Duration>,
}

/// Starts a server on bound sockets. Each thread makes an app for each socket. `limits` returns the time limits, which a
/// reload may change.
///
/// # Errors
/// A thread cannot be created.
pub fn spawn_server<A, B>(
    settings: ListenerSettings,
    sockets: Vec<BoundSocket>,
    limits: impl Fn() -> TimeLimits + Send + Sync + 'static,
    make_app: impl Fn() -> App<A> + Clone + Send + 'static,
) -> anyhow::Result<RunningServer>
where
    A: AppService<B>,
    B: MessageBody + 'static,
{
    let ListenerSettings { name, threads, max_connections, open_count, unread_timeout } = settings;
    let unread_ms = unread_timeout.and_then(|timeout| u32::try_from(timeout.as_millis()).ok());
    let connections = Connections::new(max_connections, limits, open_count);
    let (started, start) = mpsc::sync_channel(1);
    let run_connections = Arc::clone(&connections);
    let run = move || {
        // Each thread accepts one connection more than its share, which waits for a slot.
        let connections_per_thread = max_connections.div_ceil(threads) + 1;
        let mut server = Server::build()
            .workers(threads)
            .max_concurrent_connections(connections_per_thread)
            .shutdown_timeout(1)
            .disable_signals();
        for socket in sockets {
            let (make_app, connections) = (make_app.clone(), Arc::clone(&run_connections));
            let added = match socket {
                BoundSocket::Tcp(tcp) => {
                    let peer_addr = move |stream: &TcpStream| {
                        if let Some(limit_ms) = unread_ms {
                            rustix::net::sockopt::set_tcp_user_timeout(stream, limit_ms)?;
                        }
                        stream.peer_addr().map(Some)
                    };
                    server.listen(name, tcp, move || {
                        stream_service(make_app(), &connections, peer_addr)
                    })
                }
                BoundSocket::Unix(unix) => {
                    let peer_addr = |_: &UnixStream| Ok(None);
                    server.listen_uds(name, unix, move || {
                        stream_service(make_app(), &connections, peer_addr)
                    })
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

/// The app of intake, for one thread and one socket.
pub fn intake_app(state: &Arc<IntakeState>) -> App<impl AppService<BoxBody> + use<>> {
    // Services rather than handlers: the extractors of a handler would take longer than its checks.
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

/// What an `App` is made of: it responds to each request, with bodies of type `B`.
pub trait AppService<B>:
    ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<B>,
        Error = actix_web::Error,
        InitError = (),
    > + 'static
{
}

impl<B, A> AppService<B> for A where
    A: ServiceFactory<
            ServiceRequest,
            Config = (),
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static
{
}

/// The service of one thread for the connections of one socket. `peer_addr` fails for a peer that has reset its
/// connection. Without an address it would count as a unix socket.
fn stream_service<S, A, B, P>(
    app: App<A>,
    connections: &Arc<Connections>,
    peer_addr: P,
) -> impl ServiceFactory<S, Config = ()> + use<S, A, B, P>
where
    P: Fn(&S) -> io::Result<Option<SocketAddr>> + Copy + 'static,
    S: AsyncRead + AsyncWrite + ClientStream + Unpin + 'static,
    A: AppService<B>,
    B: MessageBody + 'static,
{
    let (connections, thread) = (Arc::clone(connections), connections.add_thread());
    let admit = move |stream: S| {
        let connections = Arc::clone(&connections);
        let admitted = async move {
            let peer = peer_addr(&stream)?;
            let stream = ConnectionStream::admit(stream, &connections, thread).await?;
            Ok((stream, Protocol::Http1, peer))
        };
        async { admitted.await.map_err(DispatchError::Io) }
    };
    fn_service(admit).and_then(http_service(app))
}

impl ClientStream for TcpStream {}
impl ClientStream for UnixStream {}

/// HTTP/1.1 over a stream whose times `Connections` limits, not actix-http.
fn http_service<S, A, B>(
    app: App<A>,
) -> impl ServiceFactory<
    (ConnectionStream<S>, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
> + use<S, A, B>
where
    S: AsyncRead + AsyncWrite + ClientStream + Unpin + 'static,
    A: AppService<B>,
    B: MessageBody + 'static,
{
    let app = app.into_factory().map_err(|error| error.error_response());
    HttpService::build()
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(LINGER)
        .on_connect_ext(|stream: &ConnectionStream<S>, data: &mut Extensions| {
            data.insert(Arc::clone(stream.connection()));
            if let Some(subject) = stream.client_subject() {
                data.insert(subject);
            }
        })
        .finish(map_config(app, |()| AppConfig::default()))
}
