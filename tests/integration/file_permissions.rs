//! What the server creates, for whom, and what it removes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use crate::support::server::{Server, scenario, until};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file of the server").permissions().mode() & 0o777
}

#[test]
fn the_trail_and_its_folders_have_their_modes_under_any_umask() {
    for umask in ["000", "022", "077"] {
        let enter = format!("umask {umask}; exec \"$@\"");
        let mut server = scenario().source("a", "").under(&["sh", "-c", &enter, "sh"]).start();
        assert_eq!(server.stop(), Some(0));
        let config = server.config().replace("t.db", "new/deep/t.db");
        *server.config() = config;
        server.write_config();
        server.start();
        assert_eq!(server.post("/hooks/a", "x").status, 202);
        for folder in ["new", "new/deep"] {
            assert_eq!(mode(&server.path().join(folder)), 0o750, "{folder} under {umask}");
        }
        for end in ["", "-wal", "-shm", ".lock"] {
            let path = server.path().join(format!("new/deep/t.db{end}"));
            assert_eq!(mode(&path), 0o640, "t.db{end} under {umask}");
        }
    }
}

/// A server that is to listen on `http.sock`, where something is already.
fn beside(put: impl FnOnce(&Path)) -> (Server, Option<i32>) {
    let mut server = scenario().source("a", "").start();
    assert_eq!(server.stop(), Some(0));
    put(&server.path().join("http.sock"));
    server.set_listen("unix:http.sock");
    server.spawn();
    let mut code = None;
    until("it listens, or has ended", || {
        code = server.ended_by_itself();
        code.is_some() || server.log().contains("listening for webhooks on unix:")
    });
    (server, code)
}

#[test]
fn a_file_that_is_no_socket_is_not_removed_to_listen_there() {
    let (server, code) = beside(|path| fs::write(path, "years of work").expect("a file"));
    assert_eq!(code, Some(1));
    assert!(server.log().contains("http.sock: a file that is not a socket"), "{}", server.log());
    assert_eq!(server.text_of("http.sock"), "years of work");

    let (server, code) = beside(|path| {
        let notes = path.with_file_name("notes");
        fs::write(&notes, "years of work").expect("a file");
        symlink("notes", path).expect("a link");
    });
    assert_eq!(code, Some(1));
    assert!(server.path().join("http.sock").is_symlink());
    assert_eq!(server.text_of("notes"), "years of work");
}

#[test]
fn a_socket_of_another_program_is_not_removed() {
    let mut other = None;
    let (server, code) = beside(|path| other = UnixListener::bind(path).ok());
    assert_eq!(code, Some(1));
    assert!(server.log().contains("another program listens there"), "{}", server.log());
    assert!(UnixStream::connect(server.path().join("http.sock")).is_ok());

    let mut other = None;
    let (server, code) = beside(|path| other = UnixDatagram::bind(path).ok());
    assert_eq!(code, Some(1));
    assert!(server.path().join("http.sock").exists());
}

#[test]
fn a_socket_that_an_ended_server_left_is_replaced() {
    let (_server, code) = beside(|path| drop(UnixListener::bind(path)));
    assert_eq!(code, None);
}
