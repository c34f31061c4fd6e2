//! The data folder: there, ours, closed to others, on a file system that keeps what it is given, with room, with a database of this version.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, StatVfs, access, statvfs},
    process::geteuid,
};

use super::{gateway::Running, mounts};
use crate::{
    config::Config,
    doctor::finding::{Check, Notebook},
    store::{self, DATABASE_VERSION, Header, Inspection},
    units::short_size,
};

/// Inodes below which something else is filling the file system with small files.
const INODES_FEW: u64 = 1000;

pub(super) fn look(config: &Config, running: &Running) -> Notebook {
    let mut notebook = Notebook::new(Check::Data);
    let data_dir = &config.store.data_dir;
    let subject = data_dir.display().to_string();
    let found = match fs::metadata(data_dir) {
        Ok(metadata) => {
            folder(&subject, &metadata, &mut notebook);
            store::inspect(data_dir)
        }
        Err(error) => Err(error),
    };
    let existing = nearest_existing(data_dir);
    file_system(&existing, &mut notebook);
    match found {
        Ok(inspection) => {
            space(config, &existing, &inspection, &mut notebook);
            database(data_dir, &inspection, &mut notebook);
            left_behind(running, &inspection, &mut notebook);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            missing(&subject, &existing, &mut notebook);
            space(config, &existing, &Inspection::default(), &mut notebook);
        }
        Err(error) => {
            let advice = "ask as root, or as the user of the service; if that is who asked, correct the folder's owner and mode (0700)";
            notebook.fail(&subject, format!("cannot be looked into: {error}"), advice);
        }
    }
    notebook
}

/// The folder itself, or the first one above it that is there.
pub(super) fn nearest_existing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn missing(subject: &str, existing: &Path, notebook: &mut Notebook) {
    let above = existing.display();
    if access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
        notebook.note(subject, format!("is not there yet; the gateway makes it, in {above}"));
    } else {
        let advice = "make it (mode 0700) and give it to the user of the service; systemd does so with StateDirectory=";
        notebook.fail(subject, format!("is not there, and {above} does not let us make it"), advice);
    }
}

fn folder(subject: &str, metadata: &fs::Metadata, notebook: &mut Notebook) {
    let (mode, owner, we) = (metadata.mode() & 0o7777, metadata.uid(), geteuid().as_raw());
    let open_to_others = mode & 0o077;
    if open_to_others == 0 {
        notebook.ok(subject, format!("belongs to user {owner}, mode {mode:04o}"));
    } else {
        let found = format!("mode {mode:04o}: others on this machine can look in");
        notebook.warn(subject, found, format!("chmod 0700 {subject}"));
    }
    if we != 0 && we != owner {
        let found = format!("belongs to user {owner}, and this is user {we}");
        let advice = "ask as root, or as the user of the service, to see all of it";
        notebook.note(subject, found).advice = Some(advice.to_owned());
    }
}

fn file_system(existing: &Path, notebook: &mut Notebook) {
    let Some(mount) = mounts::mount_of(existing) else {
        notebook.note("file system", format!("the system does not say what {} is on", existing.display()));
        return;
    };
    let subject = format!("file system {}", mount.point);
    if mount.read_only {
        let advice = "mount it for writing (`mount -o remount,rw`); if it became so by itself, look into the kernel's log (dmesg) for errors of the disk";
        notebook.fail(&subject, format!("{} on {} is read-only", mount.kind, mount.source), advice);
    }
    match mounts::objection(&mount.kind) {
        Some(why) => {
            let advice = "put `[gateway] data_dir` on a local ext4, xfs, btrfs or f2fs; in a container, on a volume";
            notebook.warn(&subject, format!("{}: {why}", mount.kind), advice);
        }
        None => {
            notebook.ok(&subject, format!("{} on {}", mount.kind, mount.source));
        }
    }
}

fn space(config: &Config, existing: &Path, inspection: &Inspection, notebook: &mut Notebook) {
    let settings = &config.store;
    let figures = match statvfs(existing) {
        Ok(figures) => figures,
        Err(error) => {
            notebook.warn("free space", format!("cannot be asked for: {error}"), "look at it with `df`");
            return;
        }
    };
    let free = figures.f_bavail.saturating_mul(figures.f_frsize);
    let stored = inspection.database.as_ref().map_or(0, |database| database.bytes) + inspection.log_bytes;
    let room = free.saturating_sub(settings.min_free);
    let min_free = short_size(settings.min_free);
    if free < settings.min_free {
        let found = format!("{} free, less than `min_free` ({min_free}): every message is refused", short_size(free));
        notebook.fail("free space", found, "free some space, or lower `[store] min_free`");
    } else if settings.max_bytes == 0 {
        notebook.note(
            "free space",
            format!("{} free; without `max_bytes` the store may take all but {min_free}", short_size(free)),
        );
    } else if room.saturating_add(stored) < settings.max_bytes {
        let (max, most) = (short_size(settings.max_bytes), short_size(room.saturating_add(stored)));
        let found =
            format!("{} free: the store can grow to {most} at most, not to its `max_bytes` of {max}", short_size(free));
        notebook.note("free space", found).advice =
            Some("messages are refused then, none is lost; give it more room or a smaller `max_bytes`".to_owned());
    } else {
        let max = short_size(settings.max_bytes);
        notebook.ok(
            "free space",
            format!("{} free; enough for `max_bytes` ({max}) and `min_free` ({min_free})", short_size(free)),
        );
    }
    inodes(&figures, notebook);
}

fn inodes(figures: &StatVfs, notebook: &mut Notebook) {
    // Some file systems make them as they go and say 0.
    if figures.f_files > 0 && figures.f_favail < INODES_FEW {
        let found = format!(
            "{} of {} inodes left: soon no file can be made, however much is free",
            figures.f_favail, figures.f_files
        );
        let grade = if figures.f_favail == 0 { Notebook::fail } else { Notebook::warn };
        grade(notebook, "inodes", found, "delete what fills the file system with small files (`df -i`)");
    }
}

fn database(data_dir: &Path, inspection: &Inspection, notebook: &mut Notebook) {
    let Some(database) = &inspection.database else {
        notebook.note("database", "there is none yet; the gateway makes it at its first start");
        return;
    };
    let subject = database.path.display().to_string();
    let sizes = format!("{} and {} of log", short_size(database.bytes), short_size(inspection.log_bytes));
    match &database.header {
        Header::Version(version) if *version == DATABASE_VERSION => {
            notebook.ok(&subject, format!("version {version}, {sizes}"));
        }
        Header::Version(version) if *version < DATABASE_VERSION => {
            let found =
                format!("version {version}, {sizes}; this program migrates it to {DATABASE_VERSION} at its next start");
            notebook.note(&subject, found).advice = Some("an older program will refuse it after that".to_owned());
        }
        Header::Version(version) => {
            let found = format!("version {version}, made by a newer program; this one knows up to {DATABASE_VERSION}");
            notebook.fail(&subject, found, "install the newer program again; the database is left untouched");
        }
        // A young database may be in its log alone for days, with all that was ever acknowledged.
        Header::Empty if inspection.log_bytes > 0 => {
            let found =
                format!("all of it is still in its log, {}-wal ({})", subject, short_size(inspection.log_bytes));
            notebook.note(&subject, found).advice = Some("never delete or copy one without the other".to_owned());
        }
        Header::Empty => {
            notebook.note(&subject, "is empty: it is just being made, or was cut off while it was");
        }
        Header::Foreign => {
            let advice = "move it away, or choose another `data_dir`; the gateway does not touch it";
            notebook.fail(&subject, "is the database of another program", advice);
        }
        Header::Garbage => {
            let found = "has a damaged header, or is no database";
            notebook.warn(
                &subject,
                found,
                "the next start sets it aside in `quarantine` and salvages what can be read",
            );
        }
        Header::Unreadable(error) => {
            notebook.fail(&subject, format!("cannot be read: {error}"), "ask as root, or as the user of the service");
        }
    }
    let owner = |path: &Path| fs::metadata(path).map(|metadata| metadata.uid()).ok();
    if let (Some(folder), Some(file)) = (owner(data_dir), owner(&database.path))
        && folder != file
    {
        let found =
            format!("belongs to user {file}, its folder to user {folder}: was the gateway once run as another user?");
        notebook.warn(&subject, found, format!("chown -R {folder} {}", data_dir.display()));
    }
}

fn left_behind(running: &Running, inspection: &Inspection, notebook: &mut Notebook) {
    let (count, bytes) = inspection.quarantined;
    if count > 0 {
        let databases = if count == 1 { "database was" } else { "databases were" };
        let found = format!("{count} {databases} set aside, {}", short_size(bytes));
        notebook.warn("quarantine", found, "they were damaged, or replaced by a restore: keep them for whoever is to look at them, then delete them by hand");
    }
    for path in &inspection.salvage {
        let found = "a salvage was begun and not finished";
        let advice = if running.is_up() {
            "the gateway is at it; see its log"
        } else {
            "the next start of the gateway finishes it"
        };
        notebook.warn(&path.display().to_string(), found, advice);
    }
    for path in &inspection.trials {
        let found = "left by a trial of the disk that was killed";
        notebook.note(&path.display().to_string(), found).advice = Some("the next trial removes it".to_owned());
    }
}
