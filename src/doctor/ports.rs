//! Who listens on a port of this machine, as `/proc` tells it: nothing is connected to.

use std::{fs, path::Path};

/// `LISTEN` in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// The process that listens on a TCP port, in words; `None` where nobody does, `Some("another program")` where it cannot be seen.
pub(super) fn listener_on(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes: Vec<String> = tables.iter().flat_map(|table| listening_inodes(table, port)).collect();
    (!inodes.is_empty()).then(|| owner(&inodes).unwrap_or_else(|| "another program".to_owned()))
}

/// Inodes of the sockets that listen on a port. A line: `0: 0100007F:075B 00000000:0000 0A ... uid timeout inode ...`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let read = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = words.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(hex, 16).ok()? == port && words.get(3) == Some(&LISTENING);
        is_it.then(|| words.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().filter_map(read).collect()
}

/// The process that has one of these sockets open, where we may look.
fn owner(inodes: &[String]) -> Option<String> {
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let has_it = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|to| sockets.iter().any(|s| to == Path::new(s)))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    // `self` is one of the others.
    let is_process =
        |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let process = processes.filter(|path| is_process(path)).find(|process| has_it(process))?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(format!("{}, process {}", name.trim(), process.file_name()?.to_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_port_that_is_listened_on_has_an_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owner = listener_on(port).unwrap();
        assert!(owner.ends_with(&format!(", process {}", std::process::id())), "{owner}");
        drop(listener);
        assert_eq!(listener_on(port), None);
    }

    #[test]
    fn only_who_listens_on_this_port_is_meant() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0\n\
            1: 0100007F:075B 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 112 1 0\n\
            2: 0100007F:075C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 113 1 0\nx\n";
        assert_eq!(listening_inodes(table, 1883), ["111"]);
    }
}
