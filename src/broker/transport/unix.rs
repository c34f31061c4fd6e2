//! Unix sockets: the file, its mode, what a crash leaves behind.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};

use super::Accepted;

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 1024;

/// A unix socket that is listened on.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl UnixSocket {
    /// Binds the socket; its file gets exactly this mode. A file that nobody answers on was left by a crash and is
    /// replaced; anything else is not ours to remove.
    pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let listener = match listen(path, mode) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
                let answers = std::os::unix::net::UnixStream::connect(path);
                let stale = answers.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
                if !(is_socket && stale) {
                    return Err(error);
                }
                fs::remove_file(path)?;
                listen(path, mode)?
            }
            listener => listener?,
        };
        let file = fs::symlink_metadata(path)?;
        Ok(Self { listener, path: path.to_owned(), file: (file.dev(), file.ino()) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file another mode, if it is still ours.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let file = fs::symlink_metadata(&self.path)?;
        if (file.dev(), file.ino()) != self.file {
            return Err(io::Error::other("somebody has put another file in its place"));
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }

    /// The next connection, and who is at its other end.
    pub(crate) async fn accept(&self) -> io::Result<(Accepted, String)> {
        let (stream, _) = self.listener.accept().await?;
        let address = address(&stream);
        Ok((Accepted::Unix(stream), address))
    }
}

impl Drop for UnixSocket {
    /// Removes the file, unless somebody has put another one in its place.
    fn drop(&mut self) {
        let is_ours = |file: fs::Metadata| (file.dev(), file.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // Gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux gives the file the mode of the socket, less the umask. So it is never open to more than it is meant to be ...
    fchmod(&socket, Mode::from_raw_mode(mode))?;
    socket.bind(&SockAddr::unix(path)?)?;
    // ... and here it gets back what the umask has taken.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

fn address(stream: &UnixStream) -> String {
    let process = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
    process.map_or_else(|| "unix".to_owned(), |process| format!("unix:pid {process}"))
}
