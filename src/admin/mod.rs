//! The admin listener: the console, the API and the metrics.
//!
//! A request passes `access`. Its handler reads the database on another thread, from a small pool of connections.
//! `operations` changes jobs, and `feed` reads new outcomes for all streams.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::clock::MonotonicClock;
use crate::config::{Config, Listen, Secrets};
use crate::store::{self, Connection, ReadPool};
use crate::web::{BoundSocket, IntakeState, health};
use crate::worker::task_builder::TaskBuilder;

mod access;
mod api;
mod attempt_limit;
mod cursor;
mod feed;
mod operations;
mod problem;
mod sign_in_link;
mod stream;
pub mod token_file;
mod tokens;

use attempt_limit::AttemptLimit;
use feed::OutcomeFeed;
use operations::Operations;
use problem::Problem;
use sign_in_link::SignInLinks;
use tokens::{Role, Tokens};

/// Requests that read the database at once. More would take processor time from intake.
const MAX_READS: usize = 2;

/// Requests that write at once. They may have to wait for the lock of the database, and must not keep others from
/// reading meanwhile.
const MAX_WRITES: usize = 1;

/// How long a request waits for its turn to read or write.
const READ_WAIT: Duration = Duration::from_secs(5);

/// The most connections, with those of the streams.
pub const MAX_CONNECTIONS: usize = feed::MAX_STREAMS + 64;

/// How long a client may leave what was sent to it unread. Then its connection is closed, so that clients which never
/// read do not use up the connections.
const UNREAD_TIMEOUT_MS: u32 = 20_000;

/// The largest body of a request.
const MAX_BODY_BYTES: usize = 1 << 20;

/// What the handlers of the admin listener share.
pub struct Admin {
    config: Arc<ArcSwap<Config>>,
    intake: Arc<IntakeState>,
    tokens: ArcSwap<Tokens>,
    attempts: AttemptLimit,
    links: SignInLinks,
    readers: ReadPool,
    reads: Semaphore,
    writes: Semaphore,
    clock: MonotonicClock,
    database: PathBuf,
    operations: Arc<Operations>,
    feed: Arc<OutcomeFeed>,
    /// The addresses of the listeners. They are names of this server in `Host`.
    addresses: Vec<IpAddr>,
}

/// What the admin listener needs from the server.
pub struct AdminInputs {
    pub config: Arc<ArcSwap<Config>>,
    pub intake: Arc<IntakeState>,
    pub readers: ReadPool,
    pub clock: MonotonicClock,
    pub database: PathBuf,
    pub task_builder: TaskBuilder,
}

/// The admin listener, while it runs.
pub struct AdminServer {
    admin: Arc<Admin>,
    handle: ServerHandle,
    threads: Vec<JoinHandle<()>>,
}

impl Admin {
    /// Whether a name in `Host` means this server.
    fn is_own_host(&self, host: &str) -> bool {
        if host.eq_ignore_ascii_case("localhost") || self.is_configured_host(host) {
            return true;
        }
        // A site can't point an address to this machine, only a name.
        host.parse::<IpAddr>().is_ok_and(|ip| {
            let is_listening = |own: &IpAddr| *own == ip || own.is_unspecified();
            ip.is_loopback() || self.addresses.iter().any(is_listening)
        })
    }

    fn is_configured_host(&self, host: &str) -> bool {
        self.config.load().admin.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    /// Reads the database on another thread.
    ///
    /// # Errors
    /// The database can't be read now, or too many requests read it.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection, MonotonicClock) -> store::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        self.run(move |admin| {
            let conn = admin.readers.get()?;
            Ok(read(&conn, admin.clock)?)
        })
        .await
    }

    /// Runs what reads the database on another thread.
    ///
    /// # Errors
    /// That of `run`, or too many requests wait.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        self.run_within(&self.reads, run).await
    }

    /// Runs what writes to the database on another thread.
    ///
    /// # Errors
    /// That of `run`, or another request writes.
    async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        self.run_within(&self.writes, run).await
    }

    async fn run_within<T: Send + 'static>(
        self: &Arc<Self>,
        limit: &Semaphore,
        run: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = tokio::time::timeout(READ_WAIT, limit.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(Problem::unavailable("too many requests use the database: try again"));
        };
        let admin = Arc::clone(self);
        match web::block(move || run(&admin)).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => {
                log::warn!("the database can't be used for the console: {error:#}");
                Err(Problem::unavailable(format!("the database can't be used now: {error:#}")))
            }
            Err(_) => Err(Problem::unavailable("the server is stopping")),
        }
    }
}

/// Reads the tokens of the configuration, or the one in the file `admin.token`, which is created if there is none. If
/// that fails, nobody can sign in: webhooks are more important than the console.
pub fn load_tokens(config: &Config, secrets: &Secrets) -> AdminTokens {
    let admin = &config.admin;
    let configured: Vec<Vec<u8>> = secrets.resolve(&admin.tokens).map(<[u8]>::to_vec).collect();
    let has_tcp = admin.listen.iter().any(|listen| matches!(listen, Listen::Tcp(_)));
    let act = match configured.is_empty() && has_tcp {
        true => match token_file::load_or_create(&admin.token_file(&config.store)) {
            Ok(token) => vec![token.into_bytes()],
            Err(error) => {
                log::error!("nobody can sign in to the console: {error:#}");
                Vec::new()
            }
        },
        false => configured,
    };
    let read = secrets.resolve(&admin.read_tokens).map(<[u8]>::to_vec).collect();
    AdminTokens { act, read }
}

/// The texts of all tokens.
pub struct AdminTokens {
    pub act: Vec<Vec<u8>>,
    pub read: Vec<Vec<u8>>,
}

impl AdminTokens {
    /// All of them, to be redacted.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.act.iter().chain(&self.read).map(Vec::as_slice)
    }

    fn build(&self) -> Tokens {
        Tokens::default()
            .with(Role::Act, self.act.iter().map(Vec::as_slice))
            .with(Role::Read, self.read.iter().map(Vec::as_slice))
    }
}

/// Starts the listener on bound sockets.
///
/// # Errors
/// A thread can't be started.
pub fn start(
    sockets: Vec<BoundSocket>,
    tokens: &AdminTokens,
    inputs: AdminInputs,
) -> anyhow::Result<AdminServer> {
    let AdminInputs { config, intake, readers, clock, database, task_builder } = inputs;
    let (operations, operations_thread) = operations::start(operations::OperationRunner {
        database: database.clone(),
        config: Arc::clone(&config),
        task_builder,
    })?;
    let (feed, feed_thread) = OutcomeFeed::start(readers.clone())?;
    let addresses = sockets.iter().filter_map(BoundSocket::ip).collect();
    let admin = Arc::new(Admin {
        config,
        intake,
        tokens: ArcSwap::from_pointee(tokens.build()),
        attempts: AttemptLimit::default(),
        links: SignInLinks::default(),
        readers,
        reads: Semaphore::new(MAX_READS),
        writes: Semaphore::new(MAX_WRITES),
        clock,
        database,
        operations,
        feed,
        addresses,
    });
    let (handle, thread) = spawn_server(&admin, sockets)?;
    Ok(AdminServer { admin, handle, threads: vec![thread, feed_thread, operations_thread] })
}

fn spawn_server(
    admin: &Arc<Admin>,
    sockets: Vec<BoundSocket>,
) -> anyhow::Result<(ServerHandle, JoinHandle<()>)> {
    let (started, start) = mpsc::sync_channel(1);
    let request_timeout = admin.config.load().server.request_timeout;
    let shared = web::Data::from(Arc::clone(admin));
    let run = move || {
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .app_data(api::json_config())
                .app_data(api::query_config())
                .app_data(api::path_config())
                .wrap(from_fn(access::check))
                .configure(api::routes)
                .default_service(web::to(not_found))
                .wrap(from_fn(health_first))
        })
        .workers(1)
        .worker_max_blocking_threads(MAX_READS + MAX_WRITES)
        .max_connections(MAX_CONNECTIONS)
        .client_request_timeout(request_timeout)
        .on_connect(|connection, _| {
            if let Some(tcp) = connection.downcast_ref::<TcpStream>() {
                // If the peer has reset the connection, it ends anyway.
                let _ = rustix::net::sockopt::set_tcp_user_timeout(tcp, UNREAD_TIMEOUT_MS);
            }
        })
        .shutdown_timeout(1)
        .disable_signals();
        let server = sockets.into_iter().try_fold(server, |server, socket| match socket {
            BoundSocket::Tcp(tcp) => server.listen(tcp),
            BoundSocket::Unix(unix) => server.listen_uds(unix),
        });
        let server = match server {
            Ok(server) => server.run(),
            Err(e) => return drop(started.send(Err(e))),
        };
        let ended = actix_web::rt::System::new().block_on(async {
            let _ = started.send(Ok(server.handle()));
            server.await
        });
        if let Err(e) = ended {
            log::error!("admin: {e}");
        }
    };
    let thread = std::thread::Builder::new().name("admin".into()).spawn(run)?;
    let handle = start.recv().context("the listener stopped while it was starting")??;
    Ok((handle, thread))
}

/// Responds to `/healthz` and `/readyz`, which need no token and no name in `Host`.
async fn health_first<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let admin = request.app_data::<web::Data<Admin>>();
    let health = admin.and_then(|admin| health::health_response(&admin.intake, request.request()));
    match health {
        Some(response) => Ok(request.into_response(response).map_into_right_body()),
        None => Ok(next.call(request).await?.map_into_left_body()),
    }
}

async fn not_found(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Err(Problem::not_found(format!("there is nothing at {}", request.path())))
}

impl AdminServer {
    /// Applies the tokens of a new configuration. Sessions of other tokens end.
    pub fn configure(&self, tokens: &AdminTokens) {
        self.admin.tokens.store(Arc::new(tokens.build()));
    }

    /// Closes all connections, and ends the threads.
    pub fn stop(self) {
        self.admin.operations.stop_all();
        self.admin.feed.close();
        drop(self.handle.stop(false));
        drop(self.admin);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
