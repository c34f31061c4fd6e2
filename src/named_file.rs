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
pub enum Content {
    /// A secret in its first line.
    Secret,
    /// Certificates (PEM).
    Certificates,
    /// A private key (PEM).
    PrivateKey,
}

/// Looks into a file. `Ok(Some)`: it can be used, but something is surely not meant.
pub fn check(path: &Path, content: Content) -> Result<Option<&'static str>, String> {
    read(path, content).map(|(_, warning)| warning)
}

/// Reads a file and looks into it. Also gives what is surely not meant, though the file can be used.
pub fn read(path: &Path, content: Content) -> Result<(Vec<u8>, Option<&'static str>), String> {
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
    look_into(&bytes, content)?;
    let readable_by_all = content != Content::Certificates && metadata.permissions().mode() & 0o004 != 0;
    Ok((bytes, readable_by_all.then_some("every user of this machine can read this secret (chmod o-r)")))
}

fn look_into(bytes: &[u8], content: Content) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    let has = |label: &str| text.contains(&format!("-----BEGIN {label}-----"));
    let wrong = match content {
        Content::Secret => return check_secret(bytes),
        Content::Certificates if has("CERTIFICATE") => return Ok(()),
        Content::Certificates if text.contains("PRIVATE KEY-----") => {
            "holds a private key; expected a certificate (PEM)"
        }
        Content::Certificates => "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        Content::PrivateKey if has("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") => {
            "the private key is encrypted; expected one without a passphrase"
        }
        Content::PrivateKey if text.contains("PRIVATE KEY-----") => return Ok(()),
        Content::PrivateKey if has("CERTIFICATE") => "holds a certificate; expected a private key (PEM)",
        Content::PrivateKey => "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)",
    };
    Err(wrong.to_owned())
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
