//! The error of a command or of the server, with its exit code.

use std::fmt;
use std::io::{self, ErrorKind};

use crate::config::ConfigErrors;
use crate::store::OpenError;

/// An error that ends the process: its exit code, and a message for the operator.
#[derive(Debug)]
pub struct ExitError {
    pub code: u8,
    pub text: String,
}

impl ExitError {
    /// Makes exit code 1 of any error. A server that can't start never exits with 0, so this makes no
    /// exception for a closed pipe.
    pub(super) fn other(error: impl fmt::Display) -> Self {
        Self { code: 1, text: format!("{error:#}") }
    }
}

/// Derives the exit code from the type of the error. A closed pipe is success: a reader such as `head` has
/// seen enough.
impl<E: Into<anyhow::Error>> From<E> for ExitError {
    fn from(error: E) -> Self {
        let error = error.into();
        let is_closed_pipe = error.chain().any(|cause| {
            let io_error = cause.downcast_ref::<io::Error>();
            io_error.is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
        });
        let code = match error.downcast_ref() {
            _ if is_closed_pipe => return Self { code: 0, text: String::new() },
            Some(OpenError::InUse(_)) => 75,
            _ if error.is::<ConfigErrors>() => 78,
            _ => 1,
        };
        Self { code, text: format!("{error:#}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_follows_from_the_type_of_the_error_and_a_closed_pipe_is_success() {
        let closed = || io::Error::from(ErrorKind::BrokenPipe);
        for (error, code, text) in [
            (OpenError::InUse("in use".into()).into(), 75, "in use"),
            (OpenError::Other("damaged".into()).into(), 1, "damaged"),
            (ConfigErrors(Vec::new()).into(), 78, ""),
            (anyhow::anyhow!("inner").context("outer").into(), 1, "outer: inner"),
            (closed().into(), 0, ""),
            (anyhow::Error::from(closed()).context("list").into(), 0, ""),
            (ExitError::other(closed()), 1, "broken pipe"),
        ] {
            let error: ExitError = error;
            assert_eq!((error.code, error.text.as_str()), (code, text));
        }
    }
}
