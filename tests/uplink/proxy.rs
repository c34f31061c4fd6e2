//! Support: a TCP proxy that cuts, stalls and half-closes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What the proxy does to its connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Order {
    /// Connections made under a lower number are cut.
    generation: u64,
    is_stalled: bool,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    order: watch::Sender<Order>,
    /// Bytes from the gateway after which a connection is cut; 0 = never.
    cut_after: Arc<AtomicU64>,
    /// Bytes from the upstream after which the proxy tells the gateway that nothing more comes, and goes on taking; 0 = never.
    half_close_after: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(upstream_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (order, orders) = watch::channel(Order::default());
        let (cut_after, half_close_after) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let limits = (cut_after.clone(), half_close_after.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let upstream = SocketAddr::from(([127, 0, 0, 1], upstream_port));
            let mut links = JoinSet::new();
            loop {
                let (gateway, _) = listener.accept().await.unwrap();
                let limits = (limits.0.load(Ordering::Relaxed), limits.1.load(Ordering::Relaxed));
                links.spawn(link(gateway, upstream, orders.clone(), limits));
            }
        });
        Self { port, order, cut_after, half_close_after, _tasks: tasks }
    }

    pub(crate) fn cut(&self) {
        self.order.send_modify(|order| order.generation += 1);
    }

    pub(crate) fn stall(&self, is_stalled: bool) {
        self.order.send_modify(|order| order.is_stalled = is_stalled);
    }

    pub(crate) fn cut_after(&self, bytes: u64) {
        self.cut_after.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn half_close_after(&self, bytes: u64) {
        self.half_close_after.store(bytes, Ordering::Relaxed);
    }
}

async fn link(gateway: TcpStream, upstream: SocketAddr, mut orders: watch::Receiver<Order>, limits: (u64, u64)) {
    let Ok(upstream) = TcpStream::connect(upstream).await else { return };
    let generation = orders.borrow_and_update().generation;
    let (from_gateway, to_gateway) = gateway.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    let up = pump(from_gateway, to_upstream, orders.clone(), limits.0, false);
    let down = pump(from_upstream, to_gateway, orders.clone(), limits.1, true);
    let both = async {
        tokio::select! {
            () = up => {}
            () = down => {}
        }
    };
    tokio::select! {
        () = both => {}
        _ = orders.wait_for(|order| order.generation != generation) => {}
    }
}

/// Copies until the end, or the limit. At the limit, `stays_open` shuts this direction and leaves the other alone.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut orders: watch::Receiver<Order>,
    limit: u64,
    stays_open: bool,
) {
    let mut buffer = vec![0; 4096];
    let mut total = 0;
    loop {
        if orders.wait_for(|order| !order.is_stalled).await.is_err() {
            return;
        }
        let count = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            },
            _ = orders.wait_for(|order| order.is_stalled) => continue,
        };
        total += count as u64;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if limit > 0 && total >= limit {
            if stays_open {
                let _ = to.shutdown().await;
                std::future::pending::<()>().await;
            }
            return;
        }
    }
}
