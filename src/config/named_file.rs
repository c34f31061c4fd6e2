//! Files that the configuration names: there, readable, holding what they should; found out now rather than at night.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Largest file of certificates; the bundles of all public authorities have a quarter of that.
const MAX_BYTES: u64 = 4 << 20;

/// What a file must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// A secret in its first line.
    Secret,
    /// Certificates (PEM).
    Certificates,
    /// A private key (PEM).
    PrivateKey,
}

/// Looks into a file. `Ok(Some)`: it can be used, but something is surely not meant.
pub(super) fn check(path: &Path, content: Content) -> Result<Option<&'static str>, String> {
    // Before it is opened: opening a named pipe waits for somebody to write.
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err("is larger than 4MiB".to_owned());
    }
    let text = String::from_utf8_lossy(&bytes);
    let has = |label: &str| text.contains(&format!("-----BEGIN {label}-----"));
    match content {
        Content::Secret => check_secret(&bytes)?,
        Content::Certificates if has("CERTIFICATE") => return Ok(None),
        Content::Certificates if text.contains("PRIVATE KEY-----") => {
            return Err("holds a private key; expected a certificate (PEM)".to_owned());
        }
        Content::Certificates => {
            return Err("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned());
        }
        Content::PrivateKey if has("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") => {
            return Err("the private key is encrypted; expected one without a passphrase".to_owned());
        }
        Content::PrivateKey if text.contains("PRIVATE KEY-----") => {}
        Content::PrivateKey if has("CERTIFICATE") => {
            return Err("holds a certificate; expected a private key (PEM)".to_owned());
        }
        Content::PrivateKey => return Err("holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)".to_owned()),
    }
    let readable_by_all = metadata.permissions().mode() & 0o004 != 0;
    Ok(readable_by_all.then_some("every user of this machine can read this secret (chmod o-r)"))
}

fn check_secret(bytes: &[u8]) -> Result<(), String> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.len() {
        0 => Err("its first line is empty; expected the secret there".to_owned()),
        1..=65_535 => Ok(()),
        _ => Err("its first line is longer than 65535 bytes".to_owned()),
    }
}
