//! The admin listener: the console, the API and the metrics.
//!
//! A request passes `access`. Its handler reads the database on another thread, from a small pool of connections.
//! `operations` changes jobs, and `feed` reads new outcomes for all streams.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, Error, HttpRequest, HttpResponse, ResponseError, web};
use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::clock::MonotonicClock;
use crate::config::{Config, Listen, Secrets};
use crate::jetstream::ReaderStates;
use crate::metrics::endpoint;
use crate::store::open_files::OpenFiles;
use crate::store::read_limit::{ReadLimit, is_over_limit};
use crate::store::{self, Connection, ReadPool};
use crate::web::server::{AppService, HttpServer, ServerSettings};
use crate::web::transport::TransportSettings;
use crate::web::{BoundListener, IntakeState, health, tracking};
use crate::worker::RunningJobs;
use crate::worker::task_builder::TaskBuilder;

mod access;
mod api;
mod attempt_limit;
mod console;
mod cursor;
mod feed;
mod operations;
mod problem;
mod shared_loads;
mod sign_in_link;
mod stream;
pub mod token_file;
mod tokens;
mod write_access;

use access::Client;
use attempt_limit::AttemptLimit;
use feed::OutcomeFeed;
use operations::Operations;
use problem::Problem;
use shared_loads::SharedLoads;
use sign_in_link::SignInLinks;
use tokens::{Role, Tokens};
use write_access::WriteAccess;

/// Requests that read the database at once. More would take processor time from intake.
const MAX_READS: usize = 2;

/// Requests that write at once. They may have to wait for the lock of the database, and must not keep others from
/// reading meanwhile.
const MAX_WRITES: usize = 1;

/// How long a request waits for its turn to read or write.
const READ_WAIT: Duration = Duration::from_secs(5);

/// How long the reads of one request may take together.
const MAX_READ_TIME: Duration = Duration::from_secs(3);

/// The most streams of the output of running jobs.
const MAX_OUTPUT_STREAMS: usize = 32;

/// The most connections, with those of the streams.
pub const MAX_CONNECTIONS: usize = feed::MAX_STREAMS + 64;

/// How long a client may leave what was sent to it unread. Then its connection is closed, so that clients which never
/// read do not use up the connections.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a stop waits for requests in flight: the stream of an output ends with the outcome of its job. Webhooks are
/// accepted meanwhile.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// The largest body of a request that has credentials.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The largest body of another request: a form with a token.
const MAX_STRANGERS_BODY_BYTES: usize = 16 << 10;

/// What the handlers of the admin listener share.
pub struct Admin {
    config: Arc<ArcSwap<Config>>,
    intake: Arc<IntakeState>,
    tokens: ArcSwap<Tokens>,
    attempts: AttemptLimit,
    links: SignInLinks,
    readers: ReadPool,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    clock: MonotonicClock,
    write_access: WriteAccess,
    operations: Arc<Operations>,
    feed: Arc<OutcomeFeed>,
    shared_loads: SharedLoads,
    running: Arc<RunningJobs>,
    reader_states: Arc<ReaderStates>,
    /// The streams of outputs that may be opened.
    output_streams: Arc<Semaphore>,
    /// The addresses of the listeners. They are names of this server in `Host`.
    addresses: ArcSwap<Vec<IpAddr>>,
}

/// What the admin listener needs from the server.
pub struct AdminInputs {
    pub config: Arc<ArcSwap<Config>>,
    pub intake: Arc<IntakeState>,
    pub readers: ReadPool,
    pub clock: MonotonicClock,
    pub database: PathBuf,
    pub files: Arc<OpenFiles>,
    pub task_builder: TaskBuilder,
    pub running: Arc<RunningJobs>,
    pub reader_states: Arc<ReaderStates>,
}

/// The admin listener, while it runs.
pub struct AdminServer {
    admin: Arc<Admin>,
    server: Arc<HttpServer>,
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
            ip.is_loopback() || self.addresses.load().iter().any(is_listening)
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
        self.run(move |admin, conn| Ok(read(conn, admin.clock)?)).await
    }

    /// Loads what a page shows, or shares what another page has loaded since the change that the client names. `key` names
    /// what is loaded.
    ///
    /// # Errors
    /// That of `load`.
    async fn share<T: Send + Sync + 'static>(
        &self,
        client: &Client,
        key: &str,
        load: impl Future<Output = Result<T, Problem>>,
    ) -> Result<Arc<T>, Problem> {
        let now = self.feed.last_change();
        self.shared_loads.load(key, client.since_change, now, load).await
    }

    /// Runs what reads the database on another thread.
    ///
    /// # Errors
    /// That of `run`, or too many requests wait.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce(&Self, &Connection) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let limit = ReadLimit {
            deadline: Instant::now() + MAX_READ_TIME,
            is_cancelled: Arc::clone(&is_cancelled),
        };
        // Set when the client is gone, because that drops this future.
        let _guard = CancelGuard(is_cancelled);
        self.run_within(&self.reads, move |admin| {
            let conn = admin.readers.get()?;
            limit.run(&conn, |conn| run(admin, conn))?
        })
        .await
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
        limit: &Arc<Semaphore>,
        run: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = tokio::time::timeout(READ_WAIT, Arc::clone(limit).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Problem::unavailable("too many requests use the database: try again"));
        };
        let admin = Arc::clone(self);
        // The permit is held until the thread has ended, also if the client is gone.
        let run = move || {
            let _permit = permit;
            run(&admin)
        };
        match web::block(run).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) if is_over_limit(&error) => Err(Problem::unavailable(
                "the read took too long: choose a smaller part, for example by `since`",
            )),
            Ok(Err(error)) => {
                log::warn!("the database can't be used for the console: {error:#}");
                Err(Problem::unavailable(format!("the database can't be used now: {error:#}")))
            }
            Err(_) => Err(Problem::unavailable("the server is stopping")),
        }
    }
}

/// Cancels a read when it is dropped.
struct CancelGuard(Arc<AtomicBool>);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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

/// Starts the server, without a listener.
///
/// # Errors
/// A thread can't be started.
pub fn start(tokens: &AdminTokens, inputs: AdminInputs) -> anyhow::Result<AdminServer> {
    let AdminInputs { config, intake, readers, clock, database, files, .. } = inputs;
    let AdminInputs { task_builder, running, reader_states, .. } = inputs;
    let write_access = WriteAccess { database, files };
    let (operations, operations_thread) = operations::start(operations::OperationRunner {
        write_access: write_access.clone(),
        config: Arc::clone(&config),
        task_builder,
    })?;
    let (feed, feed_thread) = OutcomeFeed::start(readers.clone())?;
    let admin = Arc::new(Admin {
        config,
        intake,
        tokens: ArcSwap::from_pointee(tokens.build()),
        attempts: AttemptLimit::default(),
        links: SignInLinks::default(),
        readers,
        reads: Arc::new(Semaphore::new(MAX_READS)),
        writes: Arc::new(Semaphore::new(MAX_WRITES)),
        clock,
        write_access,
        operations,
        feed,
        shared_loads: SharedLoads::default(),
        running,
        reader_states,
        output_streams: Arc::new(Semaphore::new(MAX_OUTPUT_STREAMS)),
        addresses: ArcSwap::default(),
    });
    let settings = ServerSettings {
        name: "admin",
        threads: 1,
        max_connections: MAX_CONNECTIONS,
        open_count: Arc::clone(&admin.intake.exporter.metrics.admin_connections),
        transport: TransportSettings {
            tls: None,
            is_trusted_proxy: Box::new(|_| false),
            unread_timeout: Some(UNREAD_TIMEOUT),
        },
    };
    let (limits, app_admin) = (Arc::clone(&admin), Arc::clone(&admin));
    let limits = move || limits.intake.time_limits();
    let server = Arc::new(HttpServer::start(settings, limits, move || build_app(&app_admin))?);
    Ok(AdminServer { admin, server, threads: vec![feed_thread, operations_thread] })
}

/// The app of the server, for one thread.
fn build_app(admin: &Arc<Admin>) -> App<impl AppService<BoxBody> + use<>> {
    App::new()
        .app_data(web::Data::from(Arc::clone(admin)))
        .app_data(api::json_config())
        .app_data(api::query_config())
        .app_data(api::path_config())
        .app_data(console::form_config())
        .configure(api::routes)
        .configure(console::routes)
        .route(endpoint::PATH, web::get().to(metrics))
        .default_service(web::to(not_found))
        .wrap(from_fn(access::check))
        .wrap(from_fn(console::problems_as_pages))
        .wrap(from_fn(health_first))
        .wrap(console::security_headers())
        .wrap(from_fn(track))
}

/// The metrics, in the format that the client accepts.
async fn metrics(admin: web::Data<Admin>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let accept = accept.map(str::to_owned);
    let (content_type, text) =
        admin.run(move |admin, _| Ok(admin.intake.exporter.respond(accept.as_deref()))).await?;
    Ok(HttpResponse::Ok().content_type(content_type).body(text))
}

/// Receives the body of a request before anything looks at it.
async fn track<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let admin = request.app_data::<web::Data<Admin>>();
    let limits = admin.map(|admin| admin.intake.time_limits());
    // Without a body, there is no size to limit, and the check of the token comes later.
    let headers = request.headers();
    let has_body = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    let max_body_bytes = match has_body && access::has_access(&request) {
        true => MAX_BODY_BYTES,
        false => MAX_STRANGERS_BODY_BYTES,
    };
    let reject = move |status: StatusCode| {
        let detail = match status {
            StatusCode::PAYLOAD_TOO_LARGE if max_body_bytes < MAX_BODY_BYTES => format!(
                "the body is too large: expected at most {max_body_bytes} bytes without a valid token"
            ),
            StatusCode::PAYLOAD_TOO_LARGE => {
                format!("the body is too large: expected at most {max_body_bytes} bytes")
            }
            StatusCode::REQUEST_TIMEOUT => "the body took too long".to_owned(),
            _ => "the body is incomplete".to_owned(),
        };
        Problem::new(status, detail).error_response()
    };
    let limits = limits.ok_or_else(|| Problem::unavailable("the listener is starting"))?;
    tracking::track(request, next, max_body_bytes, limits, reject).await
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
    /// Applies the tokens of a new configuration. If they are others, sessions and streams of the old ones end, and no
    /// sign-in link of before is valid.
    pub fn configure(&self, tokens: &AdminTokens) {
        let tokens = tokens.build();
        if self.admin.tokens.load().is_same(&tokens) {
            return;
        }
        self.admin.tokens.store(Arc::new(tokens));
        self.admin.links.clear();
        self.admin.feed.end_streams();
    }

    /// Serves these listeners from now on, and no others.
    pub fn set_listeners(&self, listeners: Vec<BoundListener>) {
        let addresses = listeners.iter().filter_map(|bound| bound.socket.ip()).collect();
        self.admin.addresses.store(Arc::new(addresses));
        self.server.set_listeners(listeners);
    }

    /// Whether listeners that are closing still have their sockets.
    pub fn has_closing_sockets(&self) -> bool {
        self.server.has_closing_sockets()
    }

    /// Closes all connections, and ends the threads. `leaves_queue`: connections that wait are for the next process.
    pub fn stop(self, leaves_queue: bool) {
        self.admin.operations.close();
        self.admin.feed.close();
        self.server.stop(STOP_LIMIT, leaves_queue);
        // The operations end when nobody can begin one.
        drop((self.server, self.admin));
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
