//! Writes the new files into a folder: never over what is there, unless that is asked for.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::NewFile;

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is something already; nothing was written.
    #[error("{} is there already; choose another folder (-o), or overwrite with --force", .0.display())]
    Exists(PathBuf),
    /// A step failed.
    #[error("cannot {step} {}: {cause}", path.display())]
    Io {
        /// What was to be done ...
        step: &'static str,
        /// ... with what.
        path: PathBuf,
        /// The system's word.
        cause: io::Error,
    },
}

/// Writes files into a folder, which is made (mode 0700) where it is missing. Each file is whole or not there.
pub fn write(folder: &Path, files: &[NewFile], force: bool) -> Result<(), WriteError> {
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |cause| WriteError::Io { step, path, cause }
    };
    if let Some(there) =
        files.iter().map(|file| folder.join(&file.name)).find(|path| !force && path.symlink_metadata().is_ok())
    {
        return Err(WriteError::Exists(there));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make the folder", folder))?;
    for file in files {
        let path = folder.join(&file.name);
        let new = folder.join(format!(".{}.{:08x}", file.name, fastrand::u32(..)));
        let written = || {
            let mut out = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&new)?;
            out.write_all(file.text.as_bytes())?;
            out.sync_all()?;
            fs::rename(&new, &path)
        };
        if let Err(cause) = written() {
            // What is left of it is of no use to anybody.
            let _ = fs::remove_file(&new);
            return Err(failed("write", &path)(cause));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nothing_is_overwritten_unless_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("new/er");
        let file = |text: &str| NewFile { name: "a".to_owned(), text: text.to_owned(), mode: 0o600 };
        write(&to, &[file("1")], false).unwrap();
        assert_eq!(fs::metadata(to.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        let other = NewFile { name: "0".to_owned(), ..file("x") };
        assert!(
            matches!(write(&to, &[other, file("2")], false), Err(WriteError::Exists(path)) if path == to.join("a"))
        );
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1, "nothing was written");
        write(&to, &[file("3")], true).unwrap();
        assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "3");
        let error = write(Path::new("/proc/nowhere"), &[file("1")], false).unwrap_err();
        assert!(error.to_string().starts_with("cannot make the folder /proc/nowhere: "), "{error}");
    }
}
