"""A TCP proxy between the gateway and its upstream that can be made to misbehave."""

import socket
import struct
import threading
import time


class Proxy:
    """Accepts on `port` and relays to `target`, until told otherwise.

    `cut()` resets every connection, `half_close()` ends one direction of each, `stall()` lets nothing through (new connections
    are accepted and hear nothing) until `flow()`. While `refusing`, new connections are closed at once.
    """

    def __init__(self, port, target):
        self.port = port
        self.target = target
        self.flowing = threading.Event()
        self.flowing.set()
        self.refusing = False
        self.lock = threading.Lock()
        self.pairs = []
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", port))
        self.running = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while self.running:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        self.flowing.wait()
        try:
            if self.refusing:
                raise OSError("refusing")
            server = socket.create_connection(("127.0.0.1", self.target), 5)
            server.settimeout(None)
        except OSError:
            client.close()
            return
        pair = (client, server)
        for end in pair:  # or Nagle's algorithm here adds 40 ms to every window
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self.pairs.append(pair)
        back = threading.Thread(target=self._relay, args=(server, client), daemon=True)
        back.start()
        self._relay(client, server)
        back.join()
        with self.lock:
            self.pairs.remove(pair)
        for end in pair:
            end.close()

    def _relay(self, source, sink):
        try:
            while data := source.recv(65536):
                self.flowing.wait()
                sink.sendall(data)
        except OSError:
            pass
        for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            try:
                end.shutdown(how)
            except OSError:
                pass

    def _each(self, act):
        with self.lock:
            pairs = list(self.pairs)
        for client, server in pairs:
            try:
                act(client, server)
            except OSError:
                pass
        return len(pairs)

    def cut(self):
        def reset(client, server):
            for end in (client, server):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)

        return self._each(reset)

    def half_close(self, towards_client=True):
        return self._each(lambda client, server: (client if towards_client else server).shutdown(socket.SHUT_WR))

    def stall(self):
        self.flowing.clear()

    def flow(self):
        self.flowing.set()

    def close(self):
        self.running = False
        self.flowing.set()
        self.refusing = True
        self.listener.shutdown(socket.SHUT_RDWR)  # `close` alone would leave the port taken while `accept` waits
        self.listener.close()
        self.cut()
        deadline = time.monotonic() + 2
        while self.pairs and time.monotonic() < deadline:
            time.sleep(0.01)
