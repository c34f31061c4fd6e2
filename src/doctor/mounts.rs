//! Which file system a path is on, and what that means for messages that must survive a power cut.

use std::{fs, path::Path};

/// The mount that a path is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub(super) point: String,
    /// Such as `ext4`.
    pub(super) kind: String,
    /// Such as `/dev/sda1`.
    pub(super) source: String,
    /// Major and minor number of the device; the major is 0 where there is none.
    pub(super) device: String,
    /// Whether nothing can be written.
    pub(super) read_only: bool,
}

/// The mount that an existing path is on; `None` where the system does not say.
pub(super) fn mount_of(path: &Path) -> Option<Mount> {
    let path = fs::canonicalize(path).ok()?;
    find(&fs::read_to_string("/proc/self/mountinfo").ok()?, &path)
}

/// `mountinfo` as in proc(5): `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/root rw`.
fn find(mountinfo: &str, path: &Path) -> Option<Mount> {
    let read = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let front: Vec<&str> = front.split(' ').collect();
        let back: Vec<&str> = back.split(' ').collect();
        let read_only = |options: &str| options.split(',').any(|option| option == "ro");
        Some(Mount {
            point: unescape(front.get(4)?),
            kind: (*back.first()?).to_owned(),
            source: unescape(back.get(1)?),
            device: (*front.get(2)?).to_owned(),
            read_only: read_only(front.get(5)?) || back.get(2).is_some_and(|options| read_only(options)),
        })
    };
    let mounts = mountinfo.lines().filter_map(read).filter(|mount| path.starts_with(&mount.point));
    // Of two at the same place the later one covers the earlier.
    mounts.max_by_key(|mount| mount.point.len())
}

/// Spaces and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            out.push(char::from(code));
            out.push_str(&part[3..]);
        } else {
            out.push('\\');
            out.push_str(part);
        }
    }
    out
}

/// Why a kind of file system is no good for the store; `None`: it is good.
pub(super) fn objection(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "9p" | "afs" | "ceph" | "glusterfs" | "virtiofs" => {
            "it is on another machine: locks and syncs over a network are not to be relied on, and it is away when the network is"
        }
        "tmpfs" | "ramfs" => "it is memory: everything stored is gone with the power",
        "overlay" | "aufs" => "it is the layer of a container: everything stored goes with the container",
        "vfat" | "msdos" | "exfat" => {
            "it has no journal and no file modes: a power cut can damage all of it, and everybody can read what is stored"
        }
        "ntfs" | "ntfs3" | "fuseblk" => "it has drivers whose syncs and modes are not to be relied on",
        kind if kind.starts_with("fuse") => "it is a program (FUSE): whether its syncs mean anything is up to that",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        30 21 0:25 / /var/lib/my\\040data ro,nosuid - tmpfs none rw,size=1k\n\
        31 21 0:26 / /mnt rw - nfs4 host:/x ro,vers=4\n\
        32 21 8:17 / /mnt rw - xfs /dev/sdb1 rw\n\
        half a line\n";

    #[test]
    fn the_deepest_mount_that_was_made_last_is_the_one() {
        let of = |path: &str| find(MOUNTS, Path::new(path)).unwrap();
        assert_eq!((of("/var/lib").kind.as_str(), of("/var/lib").device.as_str()), ("ext4", "8:1"));
        let spaced = of("/var/lib/my data/x");
        assert_eq!((spaced.point.as_str(), spaced.read_only), ("/var/lib/my data", true));
        assert_eq!((of("/mnt/a").kind.as_str(), of("/mnt/a").read_only), ("xfs", false));
        assert_eq!(of("/mntx").kind, "ext4");
        assert_eq!(find("", Path::new("/")), None);
    }

    #[test]
    fn only_what_is_no_good_is_objected_to() {
        assert!(["ext4", "xfs", "btrfs", "f2fs", "zfs"].iter().all(|kind| objection(kind).is_none()));
        assert!(["nfs4", "tmpfs", "overlay", "vfat", "fuse.sshfs"].iter().all(|kind| objection(kind).is_some()));
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape("a\\040b\\9\\"), "a b\\9\\");
        assert_eq!(unescape("\\0é0x"), "\\0é0x");
    }
}
