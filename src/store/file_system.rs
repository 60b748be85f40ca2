//! The file systems on which a database is not safe. SQLite's write-ahead log needs shared memory and file locks that
//! hold for every program that may open the file (<https://www.sqlite.org/wal.html>). On a network file system they
//! do not hold for another machine, and on some not even on this one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use super::OpenError;
use super::open_files::resolve;

/// Network file systems and their numbers. Those of Lustre and Spectrum Scale are in `stat.c` of coreutils, the others
/// in `linux/magic.h`.
const NETWORK_FILE_SYSTEMS: [(u64, &str); 10] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "Spectrum Scale"),
];

/// File systems that may be a disk of this machine, or not: FUSE (an encrypted folder, or a bucket), 9p (a folder of
/// the host, or in gVisor the disk of the container) and the shared folder of VirtualBox.
const UNKNOWN_FILE_SYSTEMS: [(u64, &str); 3] =
    [(FUSE, "FUSE"), (0x0102_1997, "9p"), (0x786f_4256, "VirtualBox")];

const FUSE: u64 = 0x6573_5546;

/// The type of a FUSE mount of a disk, such as one of ntfs-3g.
const FUSE_ON_A_DISK: &str = "fuseblk";

/// The types of FUSE mounts, as /proc/self/mountinfo has them behind `fuse.`, whose files are on another machine.
const NETWORK_FUSE_TYPES: [&str; 11] = [
    "sshfs",
    "s3fs",
    "mount-s3",
    "goofys",
    "gcsfuse",
    "blobfuse2",
    "rclone",
    "davfs",
    "curlftpfs",
    "glusterfs",
    "juicefs",
];

/// The name of a file system that is not known to hold a database safely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnsafeFileSystem {
    /// A network file system: a server does not start on it.
    Network(String),
    /// It depends on what is behind it: a server logs a warning.
    Unknown(String),
}

impl UnsafeFileSystem {
    /// Identifies the file system that has the database, or will have it. Returns `None` for any other than these.
    pub fn of(database: &Path) -> Option<Self> {
        let resolved = resolve(database);
        let database = resolved.as_deref().unwrap_or(database);
        let existing = database.ancestors().find(|path| path.exists())?;
        let found = rustix::fs::statfs(existing).ok()?.f_type as u64;
        Self::from_type(found & 0xffff_ffff, || fuse_type(existing))
    }

    fn from_type(number: u64, fuse_type: impl FnOnce() -> Option<String>) -> Option<Self> {
        let name_in = |list: &[(u64, &str)]| {
            list.iter().find(|(listed, _)| *listed == number).map(|(_, name)| (*name).to_owned())
        };
        if let Some(name) = name_in(&NETWORK_FILE_SYSTEMS) {
            return Some(Self::Network(name));
        }
        let name = name_in(&UNKNOWN_FILE_SYSTEMS)?;
        match (number == FUSE).then(fuse_type).flatten().as_deref() {
            Some(FUSE_ON_A_DISK) => None,
            Some(kind) if NETWORK_FUSE_TYPES.contains(&kind) => {
                Some(Self::Network(kind.to_owned()))
            }
            Some(kind) => Some(Self::Unknown(format!("{name}, {kind}"))),
            None => Some(Self::Unknown(name)),
        }
    }

    /// Says what is wrong with this place for `database`, and what to do.
    pub fn describe(&self, database: &Path) -> String {
        let database = database.display();
        match self {
            Self::Network(name) => format!(
                "{database}: is on a network file system ({name}), where SQLite's locks do not keep \
                 other machines out: set store.path to a file on a local disk"
            ),
            Self::Unknown(name) => format!(
                "{database}: is on a file system ({name}) that may be on another machine or share its \
                 files with one, where SQLite's locks and syncs are not reliable: expected a local disk"
            ),
        }
    }
}

/// Checks that a server may keep its database here.
///
/// # Errors
/// It is on a network file system.
pub(super) fn check(database: &Path) -> Result<(), OpenError> {
    match UnsafeFileSystem::of(database) {
        Some(found @ UnsafeFileSystem::Network(_)) => {
            Err(OpenError::Other(found.describe(database)))
        }
        Some(UnsafeFileSystem::Unknown(_)) | None => Ok(()),
    }
}

/// Returns the type of the FUSE mount that has `path`: `sshfs` of `fuse.sshfs`.
fn fuse_type(path: &Path) -> Option<String> {
    let device = fs::metadata(path).ok()?.dev();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_fuse_type(&mounts, &format!("{}:{}", major(device), minor(device)))
}

/// Finds the type of the mount with this device in a text of the form of proc(5), `/proc/[pid]/mountinfo`.
fn find_fuse_type(mounts: &str, device: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let kind = source.split(' ').next()?;
        let kind = kind.strip_prefix("fuse.").or((kind == FUSE_ON_A_DISK).then_some(kind))?;
        (mount.split(' ').nth(2)? == device).then(|| kind.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> Option<UnsafeFileSystem> {
        Some(UnsafeFileSystem::Network(name.to_owned()))
    }

    fn unknown(name: &str) -> Option<UnsafeFileSystem> {
        Some(UnsafeFileSystem::Unknown(name.to_owned()))
    }

    #[test]
    fn a_network_file_system_is_known_by_its_number_and_a_local_one_is_not_named() {
        let (ext4, xfs, btrfs, tmpfs, zfs) =
            (0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x2fc1_2fc1);
        for local in [ext4, xfs, btrfs, tmpfs, zfs] {
            assert_eq!(UnsafeFileSystem::from_type(local, || None), None, "{local:x}");
        }
        for (number, name) in
            [(0x6969, "NFS"), (0xff53_4d42, "SMB"), (0xfe53_4d42, "SMB"), (0x5346_414f, "AFS")]
        {
            assert_eq!(UnsafeFileSystem::from_type(number, || None), network(name), "{number:x}");
        }
        assert_eq!(UnsafeFileSystem::from_type(0x0102_1997, || None), unknown("9p"));
    }

    #[test]
    fn the_type_of_a_fuse_mount_decides() {
        let mounts = "36 35 98:0 / /mnt1 rw,noatime shared:1 - ext4 /dev/root rw\n\
                      40 35 0:44 / /mnt2 rw,nosuid - fuse.sshfs nas:/srv rw,user_id=0\n\
                      41 35 0:45 / /mnt3 rw - fuse.gocryptfs /srv/cipher rw\n\
                      43 35 8:17 / /mnt5 rw - fuseblk /dev/sdb1 rw\n\
                      42 35 0:46 / /mnt4 rw - fuse /dev/fuse rw\n";
        let found = |device| UnsafeFileSystem::from_type(FUSE, || find_fuse_type(mounts, device));
        assert_eq!(found("0:44"), network("sshfs"));
        assert_eq!(found("0:45"), unknown("FUSE, gocryptfs"));
        assert_eq!(found("0:46"), unknown("FUSE"));
        assert_eq!(found("8:17"), None);
    }
}
