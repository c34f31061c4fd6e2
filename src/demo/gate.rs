//! A gate in front of the upstream: a TCP relay that can be shut, and cuts what goes through when it is.
//!
//! rumqttd's server cannot be stopped once it runs, so the demo's outage happens here: connections through the gate are
//! cut at once, and new ones are closed before a byte passes, as when a router on the way has lost its uplink.

use std::{io, net::SocketAddr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Connections at a time; there is one gateway, and its old connection may linger for a moment.
const MAX_CONNECTIONS: usize = 16;

/// The gate. Dropping it ends the relay.
pub(super) struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
    relay: JoinHandle<()>,
}

impl Gate {
    /// An open gate on a free port, leading to `target`.
    pub(super) async fn before(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (open, is_open) = watch::channel(true);
        Ok(Self { address, open, relay: tokio::spawn(relay(listener, target, is_open)) })
    }

    /// Where to connect to get through.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts everything that goes through, and lets nothing in.
    pub(super) fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections in.
    pub(super) fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

async fn relay(listener: TcpListener, target: SocketAddr, is_open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A client that went away before it was accepted is no loss; it comes again.
                let Ok((client, _)) = accepted else { continue };
                if *is_open.borrow() && connections.len() < MAX_CONNECTIONS {
                    connections.spawn(pass(client, target, is_open.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Copies both ways until one side ends or the gate is shut.
async fn pass(mut client: TcpStream, target: SocketAddr, mut is_open: watch::Receiver<bool>) {
    let copy = async {
        let mut upstream = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        upstream.set_nodelay(true)?;
        copy_bidirectional(&mut client, &mut upstream).await
    };
    tokio::select! {
        _ = copy => {}
        _ = is_open.wait_for(|open| !open) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    /// Sends one byte; the byte that came back, or `None` when the connection was closed.
    async fn ping(stream: &mut TcpStream) -> Option<u8> {
        let _ = stream.write_all(b"x").await;
        tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.unwrap().ok()
    }

    #[tokio::test]
    async fn a_shut_gate_cuts_and_an_open_one_passes() {
        let gate = Gate::before(echo().await).await.unwrap();
        let mut first = TcpStream::connect(gate.address()).await.unwrap();
        assert_eq!(ping(&mut first).await, Some(b'x'));
        gate.shut();
        assert_eq!(ping(&mut first).await, None);
        let mut second = TcpStream::connect(gate.address()).await.unwrap();
        assert_eq!(ping(&mut second).await, None);
        gate.open();
        let mut third = TcpStream::connect(gate.address()).await.unwrap();
        assert_eq!(ping(&mut third).await, Some(b'x'));
    }
}
