//! The settings of hyper for all connections, to handlers and to proxies, and its errors as texts.

use std::error::Error;
use std::io::{self, ErrorKind};

use hyper::client::conn::http1::Builder;

use super::call_error::CallError;

/// The maximum size of a response head.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// The maximum number of headers of a response.
const MAX_HEADERS: usize = 128;

pub(super) fn settings() -> Builder {
    let mut settings = Builder::new();
    settings.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    settings
}

/// Says why there is no complete response, of which `received_bytes` have arrived.
pub(super) fn response_error(error: &hyper::Error, received_bytes: usize) -> CallError {
    CallError::NoResponse(if !error.is_parse() {
        describe_transport_error(error)
    } else if received_bytes >= MAX_HEAD_BYTES {
        format!("its head is larger than {} KiB", MAX_HEAD_BYTES >> 10)
    } else {
        format!("not HTTP: {error}")
    })
}

fn describe_transport_error(error: &hyper::Error) -> String {
    const CLOSED: &str = "the connection was closed";
    let Some(io_error) = find_io_error(error) else {
        return match error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            true => CLOSED.to_owned(),
            false => error.to_string(),
        };
    };
    let is_tls = io_error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    match io_error.kind() {
        ErrorKind::UnexpectedEof => CLOSED.to_owned(),
        // hyper reports invalid chunks so.
        ErrorKind::InvalidInput | ErrorKind::InvalidData if !is_tls => {
            format!("not HTTP: {io_error}")
        }
        _ => io_error.to_string(),
    }
}

fn find_io_error(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        match cause.downcast_ref::<io::Error>() {
            Some(io_error) => return Some(io_error),
            None => source = cause.source(),
        }
    }
    None
}
