//! An HTTP server for `url` handlers to call: it records each request and responds as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request with its complete body.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    pub head: String,
    pub body: Vec<u8>,
}

impl RecordedRequest {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Maps the number of a request, from 1, to the text of its response. `None`: there is never one.
type Responder = dyn Fn(usize) -> Option<String> + Send + Sync;

/// A server that listens until its test ends.
pub struct StubServer {
    pub port: u16,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
}

impl StubServer {
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().expect("the requests").clone()
    }

    /// The table of a handler of source `a` that calls this server.
    pub fn handler_table(&self, name: &str, keys: &str) -> String {
        let url = format!("http://127.0.0.1:{}/hook", self.port);
        format!("[handlers.{name}]\nsources = [\"a\"]\nurl = \"{url}\"\n{keys}")
    }
}

/// Starts a server of plain HTTP.
pub fn stub_server(
    respond: impl Fn(usize) -> Option<String> + Send + Sync + 'static,
) -> StubServer {
    stub_server_over(respond, Some)
}

/// Starts a server whose connections `wrap` turns into others, such as TLS.
pub fn stub_server_over<S: Read + Write>(
    respond: impl Fn(usize) -> Option<String> + Send + Sync + 'static,
    wrap: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
) -> StubServer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a local address").port();
    let requests = Arc::<Mutex<Vec<RecordedRequest>>>::default();
    let (recorded, respond, wrap) = (Arc::clone(&requests), Arc::new(respond), Arc::new(wrap));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (recorded, respond, wrap) =
                (Arc::clone(&recorded), Arc::clone(&respond), Arc::clone(&wrap));
            std::thread::spawn(move || {
                if let Some(stream) = wrap(stream) {
                    serve(BufReader::new(stream), &recorded, &*respond);
                }
            });
        }
    });
    StubServer { port, requests }
}

fn serve<S: Read + Write>(
    mut stream: BufReader<S>,
    recorded: &Mutex<Vec<RecordedRequest>>,
    respond: &Responder,
) {
    while let Some(request) = read_request(&mut stream) {
        let number = {
            let mut recorded = recorded.lock().expect("the requests");
            recorded.push(request);
            recorded.len()
        };
        match respond(number) {
            Some(text) if stream.get_mut().write_all(text.as_bytes()).is_ok() => {}
            Some(_) => return,
            // Waits until the client disconnects.
            None => drop(stream.read_to_end(&mut Vec::new())),
        }
    }
}

fn read_request(stream: &mut impl BufRead) -> Option<RecordedRequest> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut request = RecordedRequest { head, body: Vec::new() };
    request.body.resize(request.header("content-length")?.parse().ok()?, 0);
    stream.read_exact(&mut request.body).ok()?;
    Some(request)
}

/// The text of a response without a body.
pub fn empty_response(status: u16, headers: &str) -> String {
    format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: 0\r\n\r\n")
}
