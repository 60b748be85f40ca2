//! A server of HTTP: its listeners accept, its threads speak HTTP, and an `App` responds.
//!
//! Listeners come and go while it runs. actix-web's own server can't do that, and may lose a connection when it ends, so
//! this module combines the parts of it: actix-http on each connection, and an `App` for each thread.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_http::error::DispatchError;
use actix_http::{Extensions, HttpService, KeepAlive, Protocol};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_service, map_config,
};
use actix_web::App;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, ServiceRequest, ServiceResponse};
use anyhow::Context;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle as TaskHandle, LocalSet, spawn_local};

use super::IntakeState;
use super::acceptor::{Accepted, Acceptor};
use super::bound_sockets::BoundListener;
use super::connection_stream::ConnectionStream;
use super::connections::{Connections, LINGER, Remaining, TimeLimits};
use super::intake::{self, IntakeThread};
use super::listener::ListenerState;
use super::sockets::BoundSocket;
use super::transport::{Transport, TransportSettings, establish};
use crate::config::Listen;
use crate::store::open_files::FileId;

/// Connections that wait for a thread.
const THREAD_QUEUE: usize = 256;

/// How long the connections of a closing listener may wait for their first request, and for their next one. The peer of
/// a new one is about to send it. One that is kept for later may be closed at any time.
const UNUSED_LIMITS: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_millis(250));

/// How long the connections of a listener that a reload closes may take. Their own limits are shorter.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);

/// How often a closing listener looks at its connections.
const CLOSING_INTERVAL: Duration = Duration::from_millis(2);

/// How a server works.
pub struct ServerSettings {
    /// The name of its threads.
    pub name: &'static str,
    pub threads: usize,
    pub max_connections: usize,
    /// Counts its open connections.
    pub open_count: Arc<AtomicUsize>,
    pub transport: TransportSettings,
}

/// A running server.
pub struct HttpServer {
    connections: Arc<Connections>,
    commands: mpsc::Sender<AcceptCommand>,
    listeners: Mutex<Vec<OpenListener>>,
    /// Listeners that are closing and still have their socket.
    closing: AtomicUsize,
    /// Those that accept connections and speak HTTP, and those that wait for the connections of a closing listener.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A listener that accepts connections.
struct OpenListener {
    /// The number of its socket.
    socket: Option<u64>,
    /// The file of its unix socket.
    file: Option<FileId>,
    state: Arc<ListenerState>,
}

impl OpenListener {
    /// Whether it serves this socket in this way.
    fn is(&self, bound: &BoundListener) -> bool {
        self.state.listener == bound.listener && self.socket == bound.socket.number()
    }
}

enum AcceptCommand {
    Open(BoundSocket, Arc<ListenerState>),
    /// Ends a listener. The answer comes when each connection that it accepted has its thread.
    Close {
        listener: Arc<ListenerState>,
        leaves_queue: bool,
        ended: std_mpsc::SyncSender<()>,
    },
    Stop,
}

impl HttpServer {
    /// Starts the threads, without a listener. Each makes an app. `limits` returns the time limits, which a reload may
    /// change.
    ///
    /// # Errors
    /// A thread cannot be created.
    pub fn start<A, B>(
        settings: ServerSettings,
        limits: impl Fn() -> TimeLimits + Send + Sync + 'static,
        make_app: impl Fn() -> App<A> + Clone + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        A: AppService<B>,
        B: MessageBody + 'static,
    {
        let ServerSettings { name, threads, max_connections, open_count, transport } = settings;
        let connections = Connections::new(max_connections, limits, open_count);
        let transport = Arc::new(transport);
        let (mut handles, mut senders) = (Vec::new(), Vec::new());
        let (report, reports) = std_mpsc::sync_channel(threads);
        for _ in 0..threads {
            let (sender, accepted) = mpsc::channel(THREAD_QUEUE);
            let (make_app, transport, report) =
                (make_app.clone(), Arc::clone(&transport), report.clone());
            let run = move || run_thread(accepted, &transport, &make_app, &report);
            handles.push(std::thread::Builder::new().name(name.into()).spawn(run)?);
            senders.push(sender);
        }
        drop(report);
        for _ in 0..threads {
            reports.recv().context("a thread of the listener could not start")??;
        }
        let (commands, received) = mpsc::channel(16);
        let accept_connections = Arc::clone(&connections);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            let accepting = run_listeners(received, accept_connections, senders.into());
            LocalSet::new().block_on(&runtime, accepting);
        };
        handles.push(std::thread::Builder::new().name(format!("{name}-accept")).spawn(run)?);
        let (listeners, closing) = (Mutex::default(), AtomicUsize::new(0));
        Ok(Self { connections, commands, listeners, closing, threads: Mutex::new(handles) })
    }

    /// Serves these listeners from now on, and no others. One that stays the same stays open. The connections of one that is
    /// gone, or that has other settings, end after their request.
    pub fn set_listeners(self: &Arc<Self>, wanted: Vec<BoundListener>) {
        let mut listeners = self.listeners.lock();
        let is_wanted = |open: &mut OpenListener| wanted.iter().any(|bound| open.is(bound));
        let closed: Vec<OpenListener> = listeners.extract_if(.., |open| !is_wanted(open)).collect();
        for bound in wanted {
            if listeners.iter().any(|open| open.is(&bound)) {
                continue;
            }
            let (socket, file) = (bound.socket.number(), file_of(&bound.listener.address));
            let shared = ListenerState::new(bound.listener);
            self.command(AcceptCommand::Open(bound.socket, Arc::clone(&shared)));
            listeners.push(OpenListener { socket, file, state: shared });
        }
        drop(listeners);
        if closed.is_empty() {
            return;
        }
        closed.iter().for_each(|open| open.state.begin_closing());
        self.closing.fetch_add(closed.len(), Ordering::SeqCst);
        let server = Arc::clone(self);
        let close = Arc::new(move || {
            let deadline = Instant::now() + CLOSE_LIMIT;
            server.close_sockets(&closed, deadline, AtClose::RemoveFiles);
            let is_closed = |listener: &Arc<ListenerState>| {
                closed.iter().any(|open| Arc::ptr_eq(&open.state, listener))
            };
            server.wait_for_requests(is_closed, deadline);
        });
        let of_thread = Arc::clone(&close);
        match std::thread::Builder::new().name("drain".into()).spawn(move || of_thread()) {
            Ok(thread) => {
                let mut threads = self.threads.lock();
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            // Without a thread, the reload waits.
            Err(_) => close(),
        }
    }

    /// Whether listeners that are closing still have their sockets. It is true for a moment after a reload.
    pub fn has_closing_sockets(&self) -> bool {
        self.closing.load(Ordering::SeqCst) > 0
    }

    /// Changes the number of connections.
    pub fn set_max_connections(&self, max: usize) {
        self.connections.set_max(max);
    }

    fn command(&self, command: AcceptCommand) {
        // The thread ends when this is dropped, not before.
        let _ = self.commands.blocking_send(command);
    }

    /// Makes each response the last on its connection, gives the connections that wait for a request their chance, and
    /// closes the sockets.
    fn close_sockets(&self, closed: &[OpenListener], deadline: Instant, at_close: AtClose) {
        closed.iter().for_each(|open| open.state.begin_closing());
        // Another listener has its socket: new connections are for that one.
        let (replaced, last): (Vec<_>, Vec<_>) =
            closed.iter().partition(|open| self.has_socket_of(open));
        self.stop_accepting(&replaced, true, deadline);
        let is_closed = |listener: &Arc<ListenerState>| {
            closed.iter().any(|open| Arc::ptr_eq(&open.state, listener))
        };
        let has_unused = || self.connections.close_unused(is_closed, UNUSED_LIMITS).unused > 0;
        // Meanwhile, new connections are accepted.
        while has_unused() && Instant::now() < deadline {
            std::thread::sleep(CLOSING_INTERVAL);
        }
        if at_close == AtClose::RemoveFiles {
            // While they listen, so that no file of a later listener is meant.
            remove_socket_files(&last);
        }
        self.stop_accepting(&last, at_close == AtClose::LeaveQueue, deadline);
        self.closing.fetch_sub(closed.len(), Ordering::SeqCst);
    }

    /// Waits until each connection of these listeners has the response to its request.
    fn wait_for_requests(
        &self,
        is_selected: impl Fn(&Arc<ListenerState>) -> bool,
        deadline: Instant,
    ) {
        let remaining = || self.connections.close_unused(&is_selected, UNUSED_LIMITS);
        while remaining() != Remaining::default() && Instant::now() < deadline {
            std::thread::sleep(CLOSING_INTERVAL);
        }
    }

    /// Whether an open listener has the socket of a closed one.
    fn has_socket_of(&self, closed: &OpenListener) -> bool {
        self.listeners.lock().iter().any(|open| open.socket == closed.socket)
    }

    /// Returns when each connection that these listeners have accepted has its thread, and their sockets are closed.
    fn stop_accepting(&self, listeners: &[&OpenListener], leaves_queue: bool, deadline: Instant) {
        for listener in listeners.iter().map(|open| Arc::clone(&open.state)) {
            let (ended, end) = std_mpsc::sync_channel(1);
            self.command(AcceptCommand::Close { listener, leaves_queue, ended });
            // If the server is full, accepted connections wait for a slot. The deadline ends that too.
            let _ = end.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Closes all listeners, and ends the threads. `limit` bounds the wait for connections without a request, and then that
    /// for requests. `leaves_queue`: connections that were not accepted yet are for the next owner of the sockets. The files of
    /// unix sockets stay for them.
    pub fn stop(&self, limit: Duration, leaves_queue: bool) {
        let listeners = std::mem::take(&mut *self.listeners.lock());
        self.closing.fetch_add(listeners.len(), Ordering::SeqCst);
        let at_close = if leaves_queue { AtClose::LeaveQueue } else { AtClose::EmptyQueue };
        self.close_sockets(&listeners, Instant::now() + limit, at_close);
        let deadline = Instant::now() + limit;
        // Those of an earlier reload too.
        while self.has_closing_sockets() && Instant::now() < deadline {
            std::thread::sleep(CLOSING_INTERVAL);
        }
        self.wait_for_requests(|_| true, deadline);
        self.command(AcceptCommand::Stop);
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}

/// Removes the files of unix sockets, unless another program or listener has made another file there.
fn remove_socket_files(closed: &[&OpenListener]) {
    for open in closed.iter().filter(|open| open.file.is_some()) {
        let address = &open.state.listener.address;
        if let (Listen::Unix(path), true) = (address, file_of(address) == open.file) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Finds the file of a unix socket.
fn file_of(address: &Listen) -> Option<FileId> {
    let Listen::Unix(path) = address else { return None };
    Some(FileId::from_metadata(&std::fs::symlink_metadata(path).ok()?))
}

/// What happens to the sockets of listeners that close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtClose {
    /// Connections that wait are left to the next process or server.
    LeaveQueue,
    /// Connections that wait are accepted.
    EmptyQueue,
    /// The same, and the files of unix sockets are removed.
    RemoveFiles,
}

/// The thread that accepts connections, for all listeners.
async fn run_listeners(
    mut commands: mpsc::Receiver<AcceptCommand>,
    connections: Arc<Connections>,
    threads: Arc<[mpsc::Sender<Accepted>]>,
) {
    spawn_local(Arc::clone(&connections).run_expiry());
    let mut listeners: Vec<(Arc<ListenerState>, TaskHandle<()>)> = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            AcceptCommand::Open(socket, state) => {
                let (connections, threads) = (Arc::clone(&connections), Arc::clone(&threads));
                let acceptor = Acceptor { listener: Arc::clone(&state), connections, threads };
                listeners.push((state, spawn_local(acceptor.run(socket))));
            }
            AcceptCommand::Close { listener, leaves_queue, ended } => {
                let found = listeners.iter().position(|(open, _)| Arc::ptr_eq(open, &listener));
                let Some((_, task)) = found.map(|index| listeners.swap_remove(index)) else {
                    continue;
                };
                listener.stop_accepting(leaves_queue);
                spawn_local(async move {
                    let _ = task.await;
                    let _ = ended.send(());
                });
            }
            AcceptCommand::Stop => return,
        }
    }
}

/// A thread that speaks HTTP with its share of the connections.
fn run_thread<A, B>(
    mut accepted: mpsc::Receiver<Accepted>,
    transport: &Arc<TransportSettings>,
    make_app: &impl Fn() -> App<A>,
    report: &std_mpsc::SyncSender<anyhow::Result<()>>,
) where
    A: AppService<B>,
    B: MessageBody + 'static,
{
    actix_web::rt::System::new().block_on(async move {
        let service = match http_service(make_app()).new_service(()).await {
            Ok(service) => Rc::new(service),
            Err(()) => return drop(report.send(Err(anyhow::anyhow!("the app can't start")))),
        };
        let _ = report.send(Ok(()));
        while let Some(accepted) = accepted.recv().await {
            let (service, transport) = (Rc::clone(&service), Arc::clone(transport));
            actix_web::rt::spawn(async move {
                let Some((stream, peer)) = establish(accepted, &transport).await else { return };
                if poll_fn(|context| service.poll_ready(context)).await.is_ok() {
                    // An error is one of this connection alone.
                    let _ = service.call((stream, Protocol::Http1, peer)).await;
                }
            });
        }
    });
}

/// The app of intake, for one thread.
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

/// HTTP/1.1 over a stream whose times `Connections` limits, not actix-http.
fn http_service<A, B>(
    app: App<A>,
) -> impl ServiceFactory<
    (ConnectionStream<Transport>, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
>
where
    A: AppService<B>,
    B: MessageBody + 'static,
{
    let app = app.into_factory().map_err(|error| error.error_response());
    HttpService::build()
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(LINGER)
        .on_connect_ext(|stream: &ConnectionStream<Transport>, data: &mut Extensions| {
            data.insert(Arc::clone(stream.connection()));
            if let Some(subject) = stream.subject() {
                data.insert(subject.clone());
            }
        })
        .finish(map_config(app, |()| AppConfig::default()))
}
