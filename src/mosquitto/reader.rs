//! Reads a mosquitto.conf and what it includes, line by line, as Mosquitto does: no line is lost, none is understood yet.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

/// Largest file; nobody writes that much, and a wrong path must not fill the memory.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// Longest line.
const LINE_MAX_BYTES: usize = 64 << 10;
/// Most files of an `include_dir`.
const FILES_MAX: usize = 256;

/// A line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) file: PathBuf,
    /// Counted from 1.
    pub(super) number: usize,
    /// The first word.
    pub(super) key: String,
    /// The rest.
    pub(super) value: String,
}

/// Why a configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file could not be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is the matter with it.
        cause: String,
    },
    /// A line is no line of a configuration.
    #[error("{}, line {line}: {cause}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is the matter with it.
        cause: &'static str,
    },
}

/// All lines, those of an `include_dir` where it stands.
pub(super) fn read(path: &Path) -> Result<Vec<Line>, ReadError> {
    let mut all = Vec::new();
    for line in read_file(path)? {
        let folder = (line.key == "include_dir").then(|| PathBuf::from(&line.value));
        all.push(line);
        let Some(folder) = folder else { continue };
        // Mosquitto reads `include_dir` in the main file only, so there are no loops.
        for file in files(&beside(path, &folder))? {
            all.extend(read_file(&file)?);
        }
    }
    Ok(all)
}

/// A path as it is meant: relative ones begin beside the configuration, where there is such a file.
pub(super) fn beside(config: &Path, path: &Path) -> PathBuf {
    let folder = config.parent().unwrap_or(Path::new(""));
    let near = folder.join(path);
    let found = if path.is_absolute() || !near.exists() { path.to_owned() } else { near };
    std::path::absolute(&found).unwrap_or(found)
}

/// The text of a file that a configuration names.
pub(super) fn text(path: &Path) -> Result<String, ReadError> {
    let failed = |cause: String| ReadError::File { path: path.to_owned(), cause };
    // Before it is opened: opening a named pipe waits for somebody to write.
    let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(failed("is larger than 4MiB: is it the right file?".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = right.split(|byte| *byte == b'\n').count();
        ReadError::Line { path: path.to_owned(), line, cause: "is not UTF-8 text: is it the right file?" }
    })
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let failed = |cause: String| ReadError::File { path: folder.to_owned(), cause };
    let entries = fs::read_dir(folder).map_err(|error| failed(error.to_string()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed(error.to_string()))?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(b".conf") {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(failed(format!("has more than {FILES_MAX} files")));
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Vec<Line>, ReadError> {
    let text = text(path)?;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let refuse = |cause| ReadError::Line { path: path.to_owned(), line: number, cause };
        if line.len() > LINE_MAX_BYTES {
            return Err(refuse("is longer than 64 KiB: is it the right file?"));
        }
        if line.contains('\0') {
            return Err(refuse("holds a NUL: is it the right file?"));
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(|c: char| c.is_whitespace()).unwrap_or((line, ""));
        let (key, value) = (key.to_owned(), value.trim().to_owned());
        lines.push(Line { file: path.to_owned(), number, key, value });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_folder_stand_where_it_is_included_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        put("m.conf", "# comment\n\na 1\ninclude_dir d\r\n  b \t 2 3 \nc\n");
        put("d/2.conf", "y 1\ninclude_dir d\n");
        put("d/1.conf", "x 1\n");
        put("d/no.txt", "z 1\n");
        let lines = read(&folder.path().join("m.conf")).unwrap();
        let shown: Vec<String> =
            lines.iter().map(|line| format!("{}:{}={}", line.number, line.key, line.value)).collect();
        assert_eq!(shown, ["3:a=1", "4:include_dir=d", "1:x=1", "1:y=1", "2:include_dir=d", "5:b=2 3", "6:c="]);
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.conf");
        let table: [(&[u8], &str); 4] = [
            (b"a 1\nb \xff", "m.conf, line 2: is not UTF-8"),
            (b"a\0b", "m.conf, line 1: holds a NUL"),
            (&vec![b'x'; 70_000], "m.conf, line 1: is longer than 64 KiB"),
            (b"include_dir nowhere", "nowhere: No such file"),
        ];
        for (bytes, expected) in table {
            fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read(folder.path()).unwrap_err().to_string().ends_with("is not a regular file"));
        assert!(read(Path::new("/nowhere")).is_err());
    }
}
