"""Every fault that a network has, between the gateway and its upstream and between clients and the gateway: nothing is lost, the order stays,
repetitions carry the same id, local clients go on, it recovers by itself, and the reason can be seen."""

import time

from lab.dns import NXDOMAIN, SERVFAIL, SILENCE, NameServer
from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto, start_tls_upstream
from lab.namespace import own
from lab.process import Process, free_port, wait_for, workspace
from lab.proxy import Proxy
from lab.report import Theme

NAME = "upstream.example"
TIMEOUT_S = 2
# Local clients wait for the disk, and on a machine with much to do for their turn; not for a fault of the network.
LIVENESS_US = 5_000_000


class Site:
    """A gateway, a proxy, an upstream; sensors and a verifier for each fault."""

    def __init__(self, t, folder):
        self.t, self.folder = t, folder
        self.names = NameServer(t, folder)
        self.names.names[NAME] = "127.0.0.1"
        self.upstream = Mosquitto(folder / "upstream").start()
        t.later(self.upstream.stop)
        self.proxy = Proxy(free_port(), self.upstream.port)
        t.later(self.proxy.close)
        self.gateway = Gateway(folder / "gateway", self.proxy.port, host=NAME, progress_timeout=f"{TIMEOUT_S}s", connect_timeout=f"{TIMEOUT_S}s",
                               backoff_max="100ms", uplink=f'keep_alive = "{TIMEOUT_S}s"\nmax_inflight = 100').start()
        t.later(self.gateway.stop)
        self.number = 0
        self.slowest_us = 0

    def failures(self, *reasons):
        return sum(self.gateway.metric("tidegate_uplink_failures_total", reason=reason) for reason in reasons)

    def fails(self, *reasons, times=1):
        """Waits until the gateway has counted one of these failures so often."""
        before = self.failures(*reasons)
        return lambda: wait_for(f"a failure is counted: {' or '.join(reasons)}", lambda: self.failures(*reasons) >= before + times, 30)

    def connects_again(self):
        """Waits until the gateway has made another connection."""
        metric = lambda: self.gateway.metric("tidegate_uplink_connects_total")
        before = metric()
        return lambda: wait_for("it connects again", lambda: metric() > before, 30)

    def fault(self, name, work, reasons=(), cause=None, size=128, rate=500):
        """`work` is the fault, from its beginning until the network is well again, with sensors publishing; what became of them."""
        t, gateway = self.t, self.gateway
        self.number += 1
        wait_for("the uplink is up", lambda: gateway.metric("tidegate_uplink_connected") == 1, 30)
        topic = f"sensors/fault-{self.number}"
        verifier = Verifier(self.folder, self.upstream.port, f"verifier-{self.number}", filter=f"{topic}/#")
        sensors = Sensors(self.folder, gateway.port, f"sensors-{self.number}", topic=topic + "/{}", sensors=2, first_sensor=10 * self.number,
                          rate=rate, size=size, mqtt=5)
        wait_for("messages flow", lambda: verifier.status()["distinct"] > 50, 20)
        counted, mark = self.failures(*reasons), len(gateway.log())
        work()
        began = time.monotonic()
        sent = sensors.stop()
        gateway.wait_drained(60)
        took = time.monotonic() - began
        result = verifier.expect(sensors.journal)
        check_delivery(t, result, name)
        slowest = sent["ack"]["max_us"]
        self.slowest_us = max(self.slowest_us, slowest)
        t.check(f"{name}: local clients do not notice", sent["unacknowledged"] == 0 and sent["connects"] == 2 and slowest < LIVENESS_US,
                f"{sent['acked']} acknowledged, slowest {slowest / 1000:.0f} ms; all sent {took:.1f} s after it was over, {result['duplicates']} repetitions")
        if reasons:
            t.check(f"{name}: it is counted under its reason", self.failures(*reasons) > counted, f"{' or '.join(reasons)}: {self.failures(*reasons) - counted:.0f}")
        if cause:
            line = gateway.logged(cause, mark) or gateway.logged(cause)
            t.check(f"{name}: the log names it", line is not None, (line or "")[-250:])


def breaks(site):
    """Connections that end."""
    proxy, ends = site.proxy, ("io", "closed")

    def again_and_again(act, times=3):
        def work():
            for _ in range(times):
                up = site.connects_again()
                act()
                up()
        return work

    site.fault("cut", again_and_again(proxy.cut), ends, "uplink disconnected")
    site.fault("RST", again_and_again(proxy.reset), ends, "(?i)reset by peer|closed the connection")
    middle = lambda: proxy.reset_after(site.t.random.randrange(1, 5000))
    site.fault("RST in the middle of a packet", again_and_again(middle, times=6), ends, "(?i)reset by peer|closed the connection")
    half = lambda: proxy.half_close(towards_client=True)
    site.fault("half-closed by the upstream", again_and_again(half), ends)
    half_up = lambda: proxy.half_close(towards_client=False)
    site.fault("half-closed towards the upstream", again_and_again(half_up), ends)


def silences(site):
    """Connections that do not end, and nothing comes."""
    proxy, gateway = site.proxy, site.gateway

    def until(*reasons, begin, end):
        def work():
            seen = site.fails(*reasons)
            begin()
            seen()
            end()
        return work

    words = "nothing was acknowledged"
    site.fault("stalled in both directions", until("no-progress", begin=proxy.stall, end=proxy.flow), ("no-progress",), words)
    site.fault("stalled upwards", until("no-progress", begin=lambda: proxy.stall("up"), end=proxy.flow), ("no-progress",), words)
    site.fault("stalled downwards", until("no-progress", begin=lambda: proxy.stall("down"), end=proxy.flow), ("no-progress",), words)
    site.fault("acknowledgements lost", until("no-progress", begin=lambda: proxy.lose("down"), end=proxy.lose), ("no-progress",), words)
    site.fault("half-open: the host is gone without FIN", until("no-progress", begin=proxy.vanish, end=proxy.appear), ("no-progress",), words)

    def vanishes_for_long():
        proxy.vanish()
        site.fails("timeout", times=2)()
        proxy.appear()

    site.fault("the host is gone, and new connections hear nothing", vanishes_for_long, ("timeout",), "no answer within")

    def slow():
        before = gateway.books()["forwarded"]
        proxy.slow(20_000)
        wait_for("it goes on, slowly", lambda: gateway.books()["forwarded"] > before + 300, 60)
        proxy.slow(0)

    lost = site.failures("no-progress")
    site.fault("slow: 20 kB/s", slow)
    site.t.check("slow: it is not taken for a broken one", site.failures("no-progress") == lost)


def lingers(site):
    """The old connection lives on for the upstream while the new one is made, and what was under way there comes in between."""
    proxy = site.proxy

    def work():
        for _ in range(2):
            accepted, seen, up = proxy.accepted, site.fails("no-progress"), site.connects_again()
            proxy.strand()
            seen()
            proxy.stall("up")  # the new one waits at the door
            wait_for("a new connection is made", lambda: proxy.accepted > accepted, 20)
            proxy.flow()
            proxy.release()  # both at once
            up()

    site.fault("the old connection lingers while the new one is made", work, ("no-progress",))


def idle(site):
    """The host is gone while nothing is in flight: only keep alive can tell."""
    site.gateway.wait_drained()
    seen, began = site.fails("keep-alive"), time.monotonic()
    site.proxy.vanish()
    seen()
    took = time.monotonic() - began
    site.t.check("half-open while idle: keep alive tells", took <= 4 * TIMEOUT_S, f"after {took:.1f} s, keep_alive {TIMEOUT_S} s")
    site.proxy.appear()
    site.fault("after half-open while idle", lambda: None)


def no_connection(site):
    """Nothing to connect to."""
    proxy, names = site.proxy, site.names

    def down(*reasons, begin, end):
        def work():
            begin()
            proxy.cut()
            site.fails(*reasons, times=2)()
            end()
        return work

    site.fault("connection refused", down("tcp", begin=proxy.deny, end=proxy.admit), ("tcp",), "Connection refused")
    refusing = lambda now: lambda: setattr(proxy, "refusing", now)
    site.fault("accepted and closed at once", down("io", "closed", begin=refusing(True), end=refusing(False)), ("io", "closed"))
    site.fault("CONNECT is never answered", down("timeout", begin=lambda: proxy.stall("down"), end=proxy.flow), ("timeout",), "CONNECT: no answer")

    def name_gone(how):
        def begin():
            del names.names[NAME]
            names.unknown = how
        return begin

    back = lambda: names.names.__setitem__(NAME, "127.0.0.1")
    for how, reason, words in ((NXDOMAIN, "dns", "DNS"), (SERVFAIL, "dns", "DNS"), (SILENCE, "timeout", "DNS: no answer")):
        what = {NXDOMAIN: "does not exist", SERVFAIL: "fails", SILENCE: "is met with silence"}[how]
        site.fault(f"the name {what}", down("dns", "timeout", begin=name_gone(how), end=back), ("dns", "timeout"), words)


def tls(t, folder):
    """The handshake stalls: before the server has said a word, and in its middle."""
    port, plain = start_tls_upstream(t, folder)
    proxy = Proxy(free_port(), port)
    t.later(proxy.close)
    for name, begin in (("TLS handshake stalls at once", lambda: proxy.stall("down")), ("TLS handshake trickles", lambda: proxy.slow(100))):
        verifier = Verifier(folder, plain, name.replace(" ", "-"))
        begin()
        gateway = Gateway(folder / name.replace(" ", "-"), proxy.port, scheme="mqtts", uplink=f'ca = "{folder}/ca.pem"', connect_timeout=f"{TIMEOUT_S}s",
                          backoff_max="100ms").start()
        t.later(gateway.stop)
        sensors = Sensors(folder, gateway.port, name.replace(" ", "-") + "-sensors", count=300)
        sent = sensors.result()
        line = wait_for("the log names it", lambda: gateway.logged("TLS: no answer within"), 20)
        t.check(f"{name}: it is given up after connect_timeout, and the log says so", gateway.metric("tidegate_uplink_failures_total", reason="timeout") >= 1, line[-200:])
        t.check(f"{name}: local clients do not notice", sent["ack"]["max_us"] < LIVENESS_US, f"slowest {sent['ack']['max_us'] / 1000:.0f} ms")
        proxy.slow(0)
        proxy.flow()
        check_delivery(t, verifier.expect(sensors.journal), name)
        check_books(t, gateway, f"{name}: the books balance")
        gateway.stop()


def clients(t, folder, site):
    """The same between clients and the gateway: QoS 2 sensors behind a proxy, and others beside them that go on."""
    gateway = site.gateway
    proxy = Proxy(free_port(), gateway.port)
    t.later(proxy.close)

    def paused(begin, end):
        def work():
            begin()
            before = gateway.books()["accepted"]
            wait_for("others publish on", lambda: gateway.books()["accepted"] > before + 300, 20)
            end()
        return work

    def gone():
        proxy.appear()
        proxy.reset()  # or the sensors would wait for ever

    middle = lambda: proxy.reset_after(t.random.randrange(1, 5000))
    faults = (
        ("cut", proxy.cut), ("RST", proxy.reset), ("RST in the middle of a packet", middle), ("stall", paused(proxy.stall, proxy.flow)),
        ("acknowledgements do not come", paused(lambda: proxy.stall("down"), lambda: (proxy.cut(), proxy.flow()))),
        ("gone without FIN", paused(proxy.vanish, gone)), ("half-closed", lambda: proxy.half_close(towards_client=False)),
        ("slow", paused(lambda: proxy.slow(10_000), lambda: proxy.slow(0))),
        ("the old connection lingers", paused(proxy.strand, lambda: (proxy.cut(), proxy.release()))),
    )
    verifier = Verifier(folder, site.upstream.port, "verifier-clients", filter="sensors/clients/#")
    behind = Sensors(folder, proxy.port, "behind", topic="sensors/clients/{}", sensors=3, first_sensor=901, rate=600, mqtt=5, qos=2, keep_session=True,
                     client_prefix="behind-")
    beside = Sensors(folder, gateway.port, "beside", topic="sensors/clients/{}", sensors=2, first_sensor=951, rate=400, client_prefix="beside-")
    for name, work in faults:
        distinct = verifier.status()["distinct"]
        wait_for(f"everybody's messages flow, before: {name}", lambda: verifier.status()["distinct"] > distinct + 400, 30)
        work()
    sent, others = behind.stop(), beside.stop()
    t.check("clients behind a bad network: each is served in the end", sent["unacknowledged"] == 0 and sent["connects"] > 3 * len(faults) / 2,
            f"{sent['acked']} acknowledged over {sent['connects']} connections, {sent['resent']} sent again")
    t.check("clients beside them do not notice", others["connects"] == 2 and others["resent"] == 0 and others["ack"]["max_us"] < LIVENESS_US,
            f"slowest {others['ack']['max_us'] / 1000:.0f} ms")
    result = verifier.expect(behind.journal, beside.journal)
    check_delivery(t, result, "clients behind a bad network, QoS 2")

    # A client that is gone without FIN: its keep alive tells, and its will is sent.
    heir = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", gateway.port, "-t", "wills/#", "-F", "GOT %p"], folder / "heir.log")
    t.later(heir.kill)
    doomed = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", proxy.port, "-k", 5, "-t", "nothing", "--will-topic", "wills/doomed",
                      "--will-payload", "gone"], folder / "doomed.log")
    t.later(doomed.kill)
    for client in (heir, doomed):
        wait_for("mosquitto_sub is subscribed", lambda c=client: "Subscribed" in c.log(), 10)
    proxy.vanish()
    began = time.monotonic()
    wait_for("the will comes", lambda: "GOT gone" in heir.log(), 20)
    took = time.monotonic() - began
    t.check("a client that is gone without FIN is missed after its keep alive, and its will is sent", took <= 1.5 * 5 + 3, f"after {took:.1f} s, keep alive 5 s")
    t.check("that is counted", gateway.metric("tidegate_broker_refused_total", reason="keep-alive") >= 1)


def main(t):
    folder = workspace(t)
    folder.chmod(0o755)
    site = Site(t, folder)
    for part in (breaks, silences, lingers, idle, no_connection):
        part(site)
    clients(t, folder, site)
    check_books(t, site.gateway)
    t.say(f"slowest acknowledgement of a local client during any fault of the uplink: {site.slowest_us / 1000:.0f} ms")
    t.check("the log says what happened, and no more", len(site.gateway.log().splitlines()) < 300, len(site.gateway.log().splitlines()))
    t.check("SIGTERM ends it with code 0", site.gateway.stop() == 0)
    tls(t, folder / "tls")


own(network=True)
with Theme("network_faults") as theme:
    main(theme)
