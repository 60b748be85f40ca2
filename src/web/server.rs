//! A listener's server: actix-server accepts, `connection` limits, actix-http and an `App` respond.
//!
//! actix-web's own `HttpServer` takes no stream of ours, so its parts are put together here.

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
use actix_web::dev::AppConfig;
use actix_web::rt::net::{TcpStream, UnixStream};
use actix_web::{App, web};
use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Stream;
use super::connections::{Connections, LINGER, Limits};
use super::{BoundSocket, IntakeState, health, intake, writer_client};

/// Which requests a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Intake,
    Admin,
}

/// A server that is running.
pub struct Running {
    handle: ServerHandle,
    thread: JoinHandle<()>,
    pub connections: Arc<Connections>,
}

impl Running {
    /// Closes all connections.
    pub fn stop(self) {
        drop(self.handle.stop(false));
        let _ = self.thread.join();
    }
}

/// Starts to answer on sockets that are bound.
///
/// # Errors
/// A thread can't be made.
pub fn serve(
    kind: Kind,
    sockets: Vec<BoundSocket>,
    threads: usize,
    connections_max: usize,
    gate: &Arc<IntakeState>,
) -> anyhow::Result<Running> {
    let name = if kind == Kind::Intake { "intake" } else { "admin" };
    let of_limits = Arc::clone(gate);
    let connections = Connections::new(connections_max, move || {
        let settings = of_limits.settings.load();
        Limits {
            request_timeout: settings.server.request_timeout,
            keep_alive: settings.server.keep_alive,
        }
    });
    let (started, start) = mpsc::sync_channel(1);
    let (of_run, gate) = (Arc::clone(&connections), Arc::clone(gate));
    let run = move || {
        // One more than its share for each thread: new ones that wait for a place.
        let of_thread = connections_max.div_ceil(threads) + 1;
        let mut server = Server::build()
            .workers(threads)
            .max_concurrent_connections(of_thread)
            .shutdown_timeout(1)
            .disable_signals();
        for socket in sockets {
            let (gate, connections) = (Arc::clone(&gate), Arc::clone(&of_run));
            let added = match socket {
                BoundSocket::Tcp(tcp) => {
                    server.listen(name, tcp, move || tcp_service(kind, &gate, &connections))
                }
                BoundSocket::Unix(unix) => {
                    server.listen_uds(name, unix, move || unix_service(kind, &gate, &connections))
                }
            };
            match added {
                Ok(with) => server = with,
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
            actix_web::rt::spawn(of_run.watch());
            running.await
        });
        if let Err(e) = ended {
            log::error!("{name}: {e}");
        }
    };
    let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
    let handle = start.recv().context("the listener ended at once")??;
    Ok(Running { handle, thread, connections })
}

fn tcp_service(
    kind: Kind,
    gate: &Arc<IntakeState>,
    connections: &Arc<Connections>,
) -> impl ServiceFactory<TcpStream, Config = ()> + use<> {
    let connections = Arc::clone(connections);
    let admit = move |tcp: TcpStream| {
        let connections = Arc::clone(&connections);
        async move {
            // A peer that has reset its connection has no address: it is nobody, not a proxy.
            let peer = tcp.peer_addr().map_err(DispatchError::Io)?;
            let stream = connections.admit(tcp).await.map_err(DispatchError::Io)?;
            Ok((stream, Protocol::Http1, Some(peer)))
        }
    };
    fn_service(admit).and_then(http_service(kind, gate))
}

fn unix_service(
    kind: Kind,
    gate: &Arc<IntakeState>,
    connections: &Arc<Connections>,
) -> impl ServiceFactory<UnixStream, Config = ()> + use<> {
    let connections = Arc::clone(connections);
    let admit = move |unix: UnixStream| {
        let connections = Arc::clone(&connections);
        async move {
            let stream = connections.admit(unix).await.map_err(DispatchError::Io)?;
            Ok((stream, Protocol::Http1, None))
        }
    };
    fn_service(admit).and_then(http_service(kind, gate))
}

/// HTTP/1.1 over a stream whose time is limited by `Connections`, not by actix-http.
fn http_service<S>(
    kind: Kind,
    gate: &Arc<IntakeState>,
) -> impl ServiceFactory<
    (Stream<S>, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
> + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let app = App::new().app_data(Arc::clone(gate));
    let app = app.app_data(Rc::clone(&writer_client::WriterClient::new(gate.writer.to.clone())));
    let app = app.default_service(match kind {
        Kind::Intake => web::to(intake::handle_webhook),
        Kind::Admin => web::to(health::admin),
    });
    let app = app.into_factory().map_err(|error| error.error_response());
    HttpService::build()
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(LINGER)
        .on_connect_ext(|stream: &Stream<S>, data: &mut Extensions| {
            data.insert(Arc::clone(stream.connection()));
        })
        .finish(map_config(app, |()| AppConfig::default()))
}
