//! The device below a file system: what kind it is, and whether its speed can be true.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::mounts::Mount;

/// Synced commits a second that no SD card or eMMC does without forgetting: the good ones need half a millisecond.
const CARD_MAX_PER_S: f64 = 2_500.0;
/// Synced commits a second that no rotating disk does: it turns 250 times at most, and a commit needs at least one turn.
const ROTATING_MAX_PER_S: f64 = 500.0;

/// What stores the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// Its name, such as `mmcblk0`.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether the kernel thinks that it has a cache that loses its contents with the power, and so asks it to flush.
    pub(super) write_back: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Card,
    Virtual,
    Nvme,
    Flash,
    /// Or a USB stick, which often says so of itself.
    Rotating,
}

impl Kind {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Card => "SD card or eMMC",
            Self::Virtual => "virtual disk",
            Self::Nvme => "NVMe disk",
            Self::Flash => "solid-state disk",
            Self::Rotating => "rotating disk or USB stick",
        }
    }
}

/// The device of a mount; `None` where there is none that the system tells of.
pub(super) fn device_of(mount: &Mount) -> Option<Device> {
    let by_number = PathBuf::from("/sys/dev/block").join(&mount.device);
    let by_name = mount.source.strip_prefix("/dev/").map(|name| Path::new("/sys/class/block").join(name));
    let mut folder = [Some(by_number), by_name].into_iter().flatten().find_map(|path| fs::canonicalize(path).ok())?;
    // A mapper (encryption, volumes) says nothing of what is below it; a few levels of them are usual.
    for _ in 0..4 {
        let mut slaves = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
        match slaves.next().and_then(|slave| fs::canonicalize(slave.path()).ok()) {
            Some(below) => folder = below,
            None => break,
        }
    }
    if folder.join("partition").exists() {
        folder.pop();
    }
    let name = folder.file_name()?.to_str()?.to_owned();
    let said = |file: &str| fs::read_to_string(folder.join("queue").join(file)).ok();
    let rotates = said("rotational").is_some_and(|text| text.trim() == "1");
    let write_back = said("write_cache").map(|text| text.trim() == "write back");
    Some(Device { kind: kind(&name, rotates), name, write_back })
}

fn kind(name: &str, rotates: bool) -> Kind {
    match name {
        name if name.starts_with("mmcblk") => Kind::Card,
        name if name.starts_with("nvme") => Kind::Nvme,
        name if ["vd", "xvd", "loop", "nbd", "zram", "ram"].iter().any(|prefix| name.starts_with(prefix)) => {
            Kind::Virtual
        }
        _ if rotates => Kind::Rotating,
        _ => Kind::Flash,
    }
}

/// Why so many synced commits a second cannot be true.
pub(super) fn suspicion(kind: Kind, commits_per_s: f64) -> Option<&'static str> {
    match kind {
        Kind::Card if commits_per_s > CARD_MAX_PER_S => Some("no SD card or eMMC writes as often as that"),
        Kind::Rotating if commits_per_s > ROTATING_MAX_PER_S => Some("no rotating disk turns as often as that"),
        Kind::Card | Kind::Rotating | Kind::Virtual | Kind::Nvme | Kind::Flash => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_by_their_names() {
        assert_eq!(kind("mmcblk0", false), Kind::Card);
        assert_eq!(kind("nvme0n1", false), Kind::Nvme);
        assert_eq!(kind("vda", true), Kind::Virtual);
        assert_eq!((kind("sda", true), kind("sda", false)), (Kind::Rotating, Kind::Flash));
    }

    #[test]
    fn what_is_too_fast_for_its_kind_is_suspicious() {
        assert!(suspicion(Kind::Card, 5_000.0).is_some() && suspicion(Kind::Card, 400.0).is_none());
        assert!(suspicion(Kind::Rotating, 900.0).is_some() && suspicion(Kind::Rotating, 90.0).is_none());
        assert!(suspicion(Kind::Nvme, 30_000.0).is_none() && suspicion(Kind::Virtual, 9_000.0).is_none());
    }
}
