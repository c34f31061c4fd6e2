"""A TCP proxy that can be made to misbehave in every way that networks know.

| fault | what the two ends see |
| --- | --- |
| `cut()` | both directions end |
| `reset()` | RST on both sides, at once |
| `reset_after(n)` | RST once `n` more bytes have gone up: in the middle of a packet |
| `half_close()` | one direction ends, the other goes on |
| `stall(direction)` | nothing comes any more; what is sent is taken until buffers are full |
| `lose("down")` | what is sent never arrives, and the connection looks well |
| `vanish()` | half-open: packets are dropped, without FIN and without RST; no new connection either |
| `slow(n)` | `n` bytes a second in each direction |
| `strand()` | the old connections linger on the far side, and what was on its way comes late, after the new ones are made |
| `refusing`, `deny()` | new connections are closed at once, or refused |

`carried` counts the bytes that came from each side.

"Up" is from who connects to the proxy towards its target.
"""

import ctypes
import socket
import struct
import threading
import time

from .process import wait_for

BOTH = ("up", "down")
_libc = ctypes.CDLL(None, use_errno=True)


def _drop_all(sock):
    """The kernel drops every packet that comes for this socket, as if it were not there: a socket filter that takes nothing."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0 bytes
    sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(program)))  # SO_ATTACH_FILTER


def _take_all(sock):
    sock.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER


def _reset(sock):
    """RST, also while another thread reads: connecting to nothing (AF_UNSPEC) aborts a connection."""
    _libc.connect(sock.fileno(), bytes(16), 16)


class Link:
    """One connection and its continuation."""

    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self.stranded = self.vanished = False
        for end in (client, server):  # or Nagle's algorithm here adds 40 ms to every window
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self):
        back = threading.Thread(target=self._relay, args=(self.server, self.client, "down"), daemon=True)
        back.start()
        self._relay(self.client, self.server, "up")
        back.join()
        for end in (self.client, self.server):
            end.close()

    def _relay(self, source, sink, direction):
        try:
            while data := source.recv(65536):
                self._pass_on(data, sink, direction)
        except OSError:
            pass
        if self.stranded:
            self.proxy.forgotten.wait()
        if self.vanished:
            return
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            try:
                end.shutdown(how)
            except OSError:
                pass

    def _pass_on(self, data, sink, direction):
        proxy = self.proxy
        if self.stranded:
            if direction == "down":
                return
            proxy.forgotten.wait()
        proxy.flowing[direction].wait()
        if direction in proxy.losing:
            return
        proxy.carried[direction] += len(data)
        if direction == "up" and proxy.budget is not None:
            proxy.budget -= len(data)
            if proxy.budget <= 0:
                sink.sendall(data[:len(data) + proxy.budget])
                proxy.budget = None
                proxy.resets += 1
                self.reset()
                return
        if proxy.bytes_per_s:
            step = max(1, proxy.bytes_per_s // 20)
            for at in range(0, len(data), step):
                sink.sendall(data[at:at + step])
                time.sleep(step / proxy.bytes_per_s if proxy.bytes_per_s else 0)
        else:
            sink.sendall(data)

    def reset(self):
        for end in (self.client, self.server):
            _reset(end)


class Proxy:
    """Accepts on `port` and relays to `target`, until told otherwise; see above."""

    def __init__(self, port, target):
        self.port, self.target = port, target
        self.flowing = {direction: threading.Event() for direction in BOTH}
        self.flow()
        self.forgotten = threading.Event()
        self.refusing = False
        self.losing = ()
        self.budget = None
        self.bytes_per_s = 0
        self.lock = threading.Lock()
        self.links = []
        self.accepted = self.resets = 0
        self.carried = dict.fromkeys(BOTH, 0)
        self.listener = None
        self.admit()

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        self.flowing["up"].wait()
        try:
            if self.refusing:
                raise OSError("refusing")
            server = socket.create_connection(("127.0.0.1", self.target), 5)
            server.settimeout(None)
        except OSError:
            client.close()
            return
        link = Link(self, client, server)
        with self.lock:
            self.links.append(link)
        link.run()
        with self.lock:
            self.links.remove(link)

    def _each(self, act):
        with self.lock:
            links = list(self.links)
        for link in links:
            try:
                act(link)
            except OSError:
                pass
        return len(links)

    # Connections that are there.

    def cut(self):
        def shut(link):
            for end in (link.client, link.server):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)

        return self._each(shut)

    def reset(self):
        return self._each(Link.reset)

    def reset_after(self, size):
        self.budget = size

    def half_close(self, towards_client=True):
        return self._each(lambda link: (link.client if towards_client else link.server).shutdown(socket.SHUT_WR))

    def strand(self):
        """From now on these hear nothing, and what they send waits for `release`; their ends do not reach the target either."""
        self.forgotten.clear()

        def leave(link):
            link.stranded = True

        return self._each(leave)

    def release(self):
        self.forgotten.set()

    # All connections.

    def stall(self, *directions):
        for direction in directions or BOTH:
            self.flowing[direction].clear()

    def flow(self):
        for event in self.flowing.values():
            event.set()

    def lose(self, *directions):
        self.losing = directions

    def slow(self, bytes_per_s):
        self.bytes_per_s = bytes_per_s

    def vanish(self):
        """The host is gone: nothing that is sent here is answered, not even by the kernel."""
        _drop_all(self.listener)

        def silence(link):
            link.vanished = True
            _drop_all(link.client)

        return self._each(silence)

    def appear(self):
        """New connections are answered; the old ones stay dead to their clients, and end on the far side."""
        _take_all(self.listener)
        self._each(lambda link: link.vanished and link.server.shutdown(socket.SHUT_RDWR))

    # The port.

    def deny(self):
        """Nobody listens: connection refused."""
        # `close` alone would leave the port taken while `accept` waits in another thread.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def admit(self):
        self.listener = wait_for("the port is free", self._listen, 10)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _listen(self):
        try:
            return socket.create_server(("127.0.0.1", self.port))
        except OSError:
            return None

    def close(self):
        self.flow()
        self.release()
        self.refusing = True
        try:
            self.deny()
        except OSError:
            pass  # denied already
        self.cut()
        deadline = time.monotonic() + 2
        while self.links and time.monotonic() < deadline:
            time.sleep(0.01)
