//! The permissions of files that the server creates, and the files that it refuses to remove.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use crate::support::server::{Server, scenario, until};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file of the server").permissions().mode() & 0o777
}

#[test]
fn the_database_and_its_folders_have_fixed_modes_under_any_umask() {
    for umask in ["000", "022", "077"] {
        let wrapper = format!("umask {umask}; exec \"$@\"");
        let mut server =
            scenario().source("a", "").wrapped_by(&["sh", "-c", &wrapper, "sh"]).start();
        assert_eq!(server.stop(), Some(0));
        server.replace_in_config("t.db", "new/deep/t.db");

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

/// Starts a server that should listen on `http.sock`, after `create` put something there. Returns its exit
/// code if it has ended.
fn start_with_socket_path(create: impl FnOnce(&Path)) -> (Server, Option<i32>) {
    let mut server = scenario().source("a", "").start();
    assert_eq!(server.stop(), Some(0));
    create(&server.path().join("http.sock"));
    server.set_listen("unix:http.sock");
    server.spawn();
    let mut code = None;
    until("the server listens or has ended", || {
        code = server.exit_code();
        code.is_some() || server.log().contains("listening for webhooks on unix:")
    });
    (server, code)
}

#[test]
fn a_file_at_the_path_of_a_socket_is_not_removed() {
    let (server, code) =
        start_with_socket_path(|path| fs::write(path, "years of work").expect("a file"));
    assert_eq!(code, Some(1));
    until("the log has the reason", || {
        server.log().contains("http.sock: a file that is not a socket")
    });
    assert_eq!(server.read_file("http.sock"), "years of work");

    let (server, code) = start_with_socket_path(|path| {
        let notes = path.with_file_name("notes");
        fs::write(&notes, "years of work").expect("a file");
        symlink("notes", path).expect("a link");
    });
    assert_eq!(code, Some(1));
    assert!(server.path().join("http.sock").is_symlink());
    assert_eq!(server.read_file("notes"), "years of work");
}

#[test]
fn a_socket_that_another_program_uses_is_not_removed() {
    let mut other = None;
    let (server, code) = start_with_socket_path(|path| other = UnixListener::bind(path).ok());
    assert_eq!(code, Some(1));
    until("the log has the reason", || server.log().contains("another program listens there"));
    assert!(UnixStream::connect(server.path().join("http.sock")).is_ok());

    let mut other = None;
    let (server, code) = start_with_socket_path(|path| other = UnixDatagram::bind(path).ok());
    assert_eq!(code, Some(1));
    assert!(server.path().join("http.sock").exists());
}

#[test]
fn a_stale_socket_is_replaced() {
    let (_server, code) = start_with_socket_path(|path| drop(UnixListener::bind(path)));
    assert_eq!(code, None);
}
