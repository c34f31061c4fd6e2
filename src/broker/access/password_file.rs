//! Changes a password file on disk: whole or not at all, one change at a time.
//!
//! The new text is written beside the file, synced, and renamed over it, so that a power cut leaves the old file or the new
//! one. Owner and mode stay; a new file gets mode 0600. The folder is locked meanwhile (flock), so that two changes at once do not
//! lose one. A link is followed: what it points to is replaced.
//!
//! A new file that root makes in somebody else's folder belongs to that somebody: the folder is the gateway's, and a file
//! that the gateway cannot read would be of no use (`/var/lib/tidegate` of a unit with `DynamicUser=`).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    hash::Credential,
    users::{Line, Users, WrongLine, check_name},
};

/// Largest password file: some 35 000 users.
pub(super) const FILE_MAX: u64 = 4 << 20;

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// Whether the user was in the file before.
    pub was_there: bool,
    /// What is wrong with other lines; they were left as they are.
    pub wrong: Vec<WrongLine>,
}

/// Why a password file could not be changed; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The name cannot be one of a user.
    #[error("{0}")]
    Name(&'static str),
    /// There is no such user to delete.
    #[error("{} has no user {name:?}", path.display())]
    NoSuchUser {
        /// The file.
        path: PathBuf,
        /// Who was to be deleted.
        name: String,
    },
    /// What is there cannot be a password file.
    #[error("{}: {cause}", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: &'static str,
    },
    /// A step failed.
    #[error("cannot {step} {}: {cause}", path.display())]
    Io {
        /// What was to be done ...
        step: &'static str,
        /// ... to what.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

/// Adds a user, or gives it another password; the file is made where there is none.
pub fn set_password(path: &Path, name: &str, credential: &Credential) -> Result<Edited, EditError> {
    check_name(name).map_err(EditError::Name)?;
    edit(path, true, |text| {
        let (mut text, was_there) = without(text, name, Some(credential));
        if !was_there {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&line_of(name, credential));
        }
        (text, was_there)
    })
}

/// Deletes a user.
pub fn delete_user(path: &Path, name: &str) -> Result<Edited, EditError> {
    let edited = edit(path, false, |text| without(text, name, None))?;
    if edited.was_there {
        Ok(edited)
    } else {
        Err(EditError::NoSuchUser { path: path.to_owned(), name: name.to_owned() })
    }
}

fn line_of(name: &str, credential: &Credential) -> String {
    format!("{name}:{}\n", credential.as_str())
}

/// The text with every line of a user left out, or the first one replaced; and whether there was one.
fn without(text: &str, name: &str, replacement: Option<&Credential>) -> (String, bool) {
    let mut out = String::with_capacity(text.len() + 256);
    let mut was_there = false;
    for line in text.split_inclusive('\n') {
        match Line::read(line.trim_end_matches('\n')) {
            Line::User { name: other, .. } if other == name => {
                if let Some(credential) = replacement.filter(|_| !was_there) {
                    out.push_str(&line_of(name, credential));
                }
                was_there = true;
            }
            Line::User { .. } | Line::Nothing | Line::Wrong => out.push_str(line),
        }
    }
    (out, was_there)
}

fn edit(path: &Path, may_create: bool, change: impl FnOnce(&str) -> (String, bool)) -> Result<Edited, EditError> {
    let failed = |step: &'static str, path: &Path| {
        let path = path.to_owned();
        move |cause: io::Error| EditError::Io { step, path, cause }
    };
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => path.to_owned(),
        Err(cause) => return Err(failed("open", path)(cause)),
    };
    let not_ours = |cause: &'static str| EditError::NotOurs { path: path.clone(), cause };
    if path.file_name().is_none() {
        return Err(not_ours("is no file"));
    }
    let folder_path = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    };
    let folder = File::open(folder_path).map_err(failed("open the folder", folder_path))?;
    flock(&folder, FlockOperation::LockExclusive)
        .map_err(|error| failed("lock the folder", folder_path)(error.into()))?;
    let old = match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() => return Err(not_ours("is no regular file")),
        Ok(metadata) if metadata.len() > FILE_MAX => return Err(not_ours("is larger than 4MiB")),
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => None,
        Err(cause) => return Err(failed("open", &path)(cause)),
    };
    let mut text = String::new();
    if old.is_some() {
        let file = File::open(&path).map_err(failed("open", &path))?;
        file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(failed("read", &path))?;
    }
    let (text, was_there) = change(&text);
    let wrong = Users::parse(&text).err().unwrap_or_default();
    if text.len() as u64 > FILE_MAX {
        return Err(not_ours("would become larger than 4MiB"));
    }
    let folder_metadata = folder.metadata().map_err(failed("open the folder", folder_path))?;
    let beside = Beside::new(&path);
    beside.write(&text, old.as_ref(), &folder_metadata).map_err(failed("write", &beside.path))?;
    fs::rename(&beside.path, &path).map_err(failed("replace", &path))?;
    folder.sync_all().map_err(failed("sync the folder", folder_path))?;
    Ok(Edited { was_there, wrong })
}

/// The new file under a name of its own; removed again unless it was renamed.
struct Beside {
    path: PathBuf,
}

impl Beside {
    fn new(path: &Path) -> Self {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}-{:08x}", std::process::id(), fastrand::u32(..)));
        Self { path: path.with_file_name(name) }
    }

    fn write(&self, text: &str, old: Option<&fs::Metadata>, folder: &fs::Metadata) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        file.write_all(text.as_bytes())?;
        let new = file.metadata()?;
        let owner = match old {
            Some(old) => (old.uid(), old.gid()),
            None if new.uid() == 0 => (folder.uid(), folder.gid()),
            None => (new.uid(), new.gid()),
        };
        if owner != (new.uid(), new.gid()) {
            std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
        }
        // After the owner: changing that takes bits away.
        let mode = old.map_or(0o600, |old| old.permissions().mode() & 0o7777);
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Renamed, so gone, is the usual case.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential() -> Credential {
        Credential::parse(
            "$argon2id$v=19$m=7168,t=5,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        )
        .unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn users_come_change_and_go_and_everything_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        assert!(!set_password(&path, "a", &credential()).unwrap().was_there);
        assert_eq!(mode(&path), 0o600);
        let other = Credential::of(b"x").unwrap();
        fs::write(&path, format!("# sensors\na:{}\n\nb:{}", credential().as_str(), credential().as_str())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(set_password(&path, "a", &other).unwrap().was_there);
        assert!(!set_password(&path, "c", &other).unwrap().was_there);
        let (one, two) = (credential(), other.as_str());
        let expected = format!("# sensors\na:{two}\n\nb:{}\nc:{two}\n", one.as_str());
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(mode(&path), 0o640);
        assert!(delete_user(&path, "b").unwrap().was_there);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# sensors\na:{two}\n\nc:{two}\n"));
        assert!(matches!(delete_user(&path, "b"), Err(EditError::NoSuchUser { .. })));
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["passwd"], "nothing is left beside it");
    }

    #[test]
    fn a_link_is_followed_and_wrong_lines_of_others_are_told_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&path, "nonsense\na:hunter2\na:hunter3\n").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let edited = set_password(&link, "a", &credential()).unwrap();
        assert!(edited.was_there);
        assert_eq!(edited.wrong.iter().map(|wrong| wrong.line).collect::<Vec<_>>(), [1]);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("nonsense\na:{}\n", credential().as_str()));
    }

    #[test]
    fn what_cannot_be_changed_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/passwd");
        assert!(matches!(set_password(&missing, "a", &credential()), Err(EditError::Io { .. })));
        assert!(matches!(delete_user(&folder.path().join("passwd"), "a"), Err(EditError::Io { step: "open", .. })));
        assert!(matches!(set_password(folder.path(), "a", &credential()), Err(EditError::NotOurs { .. })));
        for name in ["", "a:b", "a\nb", " a", "#a", "*", "anonymous"] {
            let refused = set_password(&folder.path().join("passwd"), name, &credential());
            assert!(matches!(refused, Err(EditError::Name(_))), "{name:?}");
        }
        let path = folder.path().join("latin1");
        fs::write(&path, b"\xE4:x\n").unwrap();
        assert!(matches!(set_password(&path, "a", &credential()), Err(EditError::Io { step: "read", .. })));
        assert_eq!(fs::read(&path).unwrap(), b"\xE4:x\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn changes_at_the_same_time_are_all_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || set_password(path, &format!("user{number}"), &credential()).unwrap());
            }
        });
        assert_eq!(Users::parse(&fs::read_to_string(&path).unwrap()).unwrap().len(), 8);
    }
}
