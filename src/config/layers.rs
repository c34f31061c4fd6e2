//! Finds the files and stacks the layers with the `config` crate.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ::config::{Config as Stack, Value};

use super::{
    Inputs, environment, file,
    origin::{Origin, Origins},
    problem::{Place, Problem, Refused, Severity},
    tree,
};

/// Most files read from `conf.d`.
const MAX_FILES: usize = 256;

/// All layers as one tree.
#[derive(Debug)]
pub(super) struct Layers {
    pub(super) root: Value,
    pub(super) origins: Origins,
    /// The files that were read, lowest layer first.
    pub(super) files: Vec<PathBuf>,
    /// What was already found wrong.
    pub(super) problems: Vec<Problem>,
}

/// Reads all layers. Refused where a file cannot be read or parsed: the rest would be guesswork.
pub(super) fn read(inputs: &Inputs) -> Result<Layers, Refused> {
    let mut problems = Vec::new();
    let mut origins = Origins::default();
    let mut files = Vec::new();
    let mut stack = Stack::builder();
    let mut whole = true;
    for (path, may_be_missing) in find_files(inputs, &mut problems) {
        let text = match file::read_text(&path, file::MAX_FILE_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_missing => continue,
            Err(error) => {
                problems.push(about_file(&path, format!("cannot be read: {error}")));
                continue;
            }
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let origin = Origin { label: path.display().to_string(), folder, is_environment: false };
        let source = origins.add(origin);
        match file::parse(&text, source, &origins, &mut problems) {
            Some(layer) => stack = stack.add_source(layer),
            None => whole = false,
        }
        files.push(path);
    }
    if !whole || problems.iter().any(|problem| problem.key.is_empty()) {
        problems.sort_by(Problem::order);
        return Err(Refused(problems));
    }
    // Our sources cannot fail, but the crate's signature says that some can.
    let refused =
        |error: ::config::ConfigError| Refused(vec![about_file(Path::new("configuration"), error.to_string())]);
    let below = tree::take(stack.build_cloned().map_err(refused)?.cache);
    let environment = environment::read(&inputs.environment, &below, &mut origins, &mut problems);
    let root = tree::take(stack.add_source(environment).build().map_err(refused)?.cache);
    Ok(Layers { root, origins, files, problems })
}

/// The files in the order of the layers, and whether each may be missing.
fn find_files(inputs: &Inputs, problems: &mut Vec<Problem>) -> Vec<(PathBuf, bool)> {
    let (main, may_be_missing) = match (&inputs.file, &inputs.default_file) {
        (Some(file), _) => (file.clone(), false),
        (None, Some(file)) => (file.clone(), true),
        (None, None) => return Vec::new(),
    };
    let folder = main.parent().unwrap_or(Path::new("")).join("conf.d");
    let mut more = match list(&folder) {
        Ok(files) => files,
        Err(error) => {
            problems.push(about_file(&folder, format!("cannot be read: {error}")));
            Vec::new()
        }
    };
    if more.len() > MAX_FILES {
        problems.push(about_file(&folder, format!("has {} files; expected at most {MAX_FILES}", more.len())));
        more.truncate(MAX_FILES);
    }
    std::iter::once((main, may_be_missing)).chain(more.into_iter().map(|file| (file, false))).collect()
}

/// The `*.toml` of a folder in name order, without hidden ones; nothing where there is no such folder.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name_bytes = name.as_encoded_bytes();
        if name_bytes.ends_with(b".toml") && !name_bytes.starts_with(b".") {
            files.push(folder.join(name));
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn about_file(path: &Path, expected: String) -> Problem {
    let place = Some(Place { source: path.display().to_string(), line: None });
    Problem {
        severity: Severity::Error,
        place,
        key: String::new(),
        name: None,
        said: None,
        expected,
        hint: None,
        may_pass: false,
    }
}
