//! A service that handlers call: it keeps what it was asked, and answers as a test likes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request whole.
#[derive(Clone, Debug)]
pub struct Asked {
    pub head: String,
    pub body: Vec<u8>,
}

impl Asked {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What is said to a request of that number, from 1; `None`: nothing, ever.
type Answer = dyn Fn(usize) -> Option<String> + Send + Sync;

/// A service that listens until its test ends.
pub struct Service {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Service {
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("what it was asked").clone()
    }

    /// A handler of source `a` that calls it.
    pub fn handler(&self, name: &str, keys: &str) -> String {
        let url = format!("http://127.0.0.1:{}/hook", self.port);
        format!("[handlers.{name}]\nsources = [\"a\"]\nurl = \"{url}\"\n{keys}")
    }
}

/// A service over plain HTTP.
pub fn service(answer: impl Fn(usize) -> Option<String> + Send + Sync + 'static) -> Service {
    service_over(answer, Some)
}

/// One over what `secure` makes of each connection.
pub fn service_over<S: Read + Write>(
    answer: impl Fn(usize) -> Option<String> + Send + Sync + 'static,
    secure: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let asked = Arc::<Mutex<Vec<Asked>>>::default();
    let (kept, answer, secure) = (Arc::clone(&asked), Arc::new(answer), Arc::new(secure));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (kept, answer, secure) =
                (Arc::clone(&kept), Arc::clone(&answer), Arc::clone(&secure));
            std::thread::spawn(move || {
                if let Some(stream) = secure(stream) {
                    serve(BufReader::new(stream), &kept, &*answer);
                }
            });
        }
    });
    Service { port, asked }
}

fn serve<S: Read + Write>(mut stream: BufReader<S>, kept: &Mutex<Vec<Asked>>, answer: &Answer) {
    while let Some(asked) = request(&mut stream) {
        let number = {
            let mut kept = kept.lock().expect("what it was asked");
            kept.push(asked);
            kept.len()
        };
        match answer(number) {
            Some(text) if stream.get_mut().write_all(text.as_bytes()).is_ok() => {}
            Some(_) => return,
            // Until the other end leaves.
            None => drop(stream.read_to_end(&mut Vec::new())),
        }
    }
}

fn request(stream: &mut impl BufRead) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut asked = Asked { head, body: Vec::new() };
    asked.body.resize(asked.header("content-length")?.parse().ok()?, 0);
    stream.read_exact(&mut asked.body).ok()?;
    Some(asked)
}

/// An answer without a body.
pub fn status(status: u16, headers: &str) -> String {
    format!("HTTP/1.1 {status} So\r\n{headers}Content-Length: 0\r\n\r\n")
}
