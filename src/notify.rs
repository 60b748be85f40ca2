//! Messages to systemd (`sd_notify(3)`) through a socket that never blocks. A service manager that hangs must
//! not block the thread that handles signals or the maintenance thread.
//!
//! A message that cannot be sent waits here, and the next call sends it first.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, sendto, socket_with,
};
use sd_notify::NotifyState;

/// Maximum number of waiting messages. Beyond it the oldest watchdog or status message is dropped.
const MAX_WAITING: usize = 16;

static CHANNEL: Mutex<Channel> = Mutex::new(Channel { socket: None, waiting: VecDeque::new() });

struct Channel {
    socket: Option<(OwnedFd, SocketAddrUnix)>,
    waiting: VecDeque<String>,
}

/// Sends a message. Does nothing without a service manager.
pub fn send(states: &[NotifyState<'_>]) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let mut message = String::new();
    for state in states {
        let _ = writeln!(message, "{state}");
    }
    CHANNEL.lock().send(name.as_bytes(), message);
}

/// Gives systemd a duplicate of a descriptor (`FileDescriptorStoreMax=`), which it passes to the next process of the
/// service. Without a service manager, or if it has no room for the message now, nothing happens.
pub fn store_descriptor(name: &str, descriptor: BorrowedFd<'_>) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok((socket, address)) = open(manager.as_bytes()) else { return };
    let message = format!("FDSTORE=1\nFDNAME={name}\n");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let message = [IoSlice::new(message.as_bytes())];
    let _ = sendmsg_addr(socket, &address, &message, &mut ancillary, SendFlags::NOSIGNAL);
}

/// Whether a service manager runs this process.
pub fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Lets systemd close a descriptor that it stores.
pub fn remove_descriptor(name: &str) {
    send(&[NotifyState::Custom(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))]);
}

impl Channel {
    fn send(&mut self, name: &[u8], message: String) {
        self.waiting.push_back(message);
        if self.waiting.len() > MAX_WAITING {
            let is_periodic = |message: &String| {
                message.starts_with("WATCHDOG=") || message.starts_with("STATUS=")
            };
            self.waiting.remove(self.waiting.iter().position(is_periodic).unwrap_or(0));
        }
        if self.socket.is_none() {
            // No socket can be created now. The next message tries again.
            self.socket = open(name).ok();
        }
        let Some((socket, address)) = &self.socket else { return };
        while let Some(message) = self.waiting.front() {
            match sendto(socket, message.as_bytes(), SendFlags::NOSIGNAL, address) {
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return,
                Err(Errno::INTR) => {}
                // The service manager is gone.
                Ok(_) | Err(_) => drop(self.waiting.pop_front()),
            }
        }
    }
}

fn open(name: &[u8]) -> rustix::io::Result<(OwnedFd, SocketAddrUnix)> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(std::ffi::OsStr::from_bytes(name))?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok((socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?, address))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_manager_that_does_not_read_blocks_no_caller_and_gets_the_important_messages_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut channel = Channel { socket: None, waiting: VecDeque::new() };
        let name = path.as_os_str().as_bytes();
        for number in 0..10_000 {
            channel.send(name, format!("STATUS={number}\n"));
        }
        assert_eq!(channel.waiting.len(), MAX_WAITING);
        manager.set_nonblocking(true).unwrap();
        channel.send(name, "READY=1\n".to_owned());
        let mut received = Vec::new();
        let mut buffer = [0; 64];
        for _ in 0..100 {
            while let Ok(length) = manager.recv(&mut buffer) {
                received.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            channel.send(name, "WATCHDOG=1\n".to_owned());
        }
        assert_eq!(received[0], "STATUS=0\n");
        assert!(received.contains(&"READY=1\n".to_owned()));
        assert_eq!(received.last().map(String::as_str), Some("WATCHDOG=1\n"));
    }
}
