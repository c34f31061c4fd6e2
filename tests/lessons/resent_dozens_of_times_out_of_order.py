"""The trap: after a reconnect messages are resent dozens of times, out of order, and every reading is there twice.

Seen in Mosquitto (eclipse/mosquitto#2248), NanoMQ (#897), thingsboard-gateway (#2098), paho.golang (#731). Tidegate has one ledger, one order
and stable ids: a cut costs at most one window of repetitions, each recognisable. The control: Mosquitto's bridge on the
same link, where nothing tells a repetition from a new reading.
"""

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto, MosquittoGateway
from lab.process import free_port, wait_for, workspace
from lab.proxy import Proxy
from lab.report import Theme

CUTS, WINDOW = 12, 64


def cuts(t, folder, gateway_of, kind):
    """Cuts a busy link, each time with acknowledgements on their way; what arrived."""
    folder.mkdir()
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    proxy = Proxy(free_port(), upstream.port)
    t.later(proxy.close)
    verifier = Verifier(folder, upstream.port, idle=5)
    gateway = gateway_of(folder / "gateway", proxy.port).start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, sensors=4, rate=4000, mqtt=5)
    for _ in range(CUTS):
        before = verifier.status()["distinct"]
        wait_for(f"messages flow through {kind}", lambda: verifier.status()["distinct"] > before + 200, 30)
        proxy.stall("down")
        wait_for("what is sent and will not be acknowledged has arrived", quiet(verifier), 5, 0.05)
        proxy.cut()
        proxy.flow()
    sent = sensors.stop()
    return sent, verifier.expect(sensors.journal), gateway


def quiet(verifier):
    """A condition: nothing more has arrived since it was asked last, for the window is full."""
    last = -1

    def condition():
        nonlocal last
        before, last = last, verifier.status()["received"]
        return before == last

    return condition


def main(t):
    folder = workspace(t)
    sent, got, gateway = cuts(t, folder / "tidegate", lambda at, port: Gateway(at, port, uplink=f"max_inflight = {WINDOW}", backoff_max="100ms"), "Tidegate")
    check_delivery(t, got, f"{CUTS} cuts")
    t.check("a cut costs at most one window of repetitions", 0 < got["duplicates"] <= CUTS * WINDOW, f"{got['duplicates']} of {got['distinct']}")
    t.check("local sensors did not notice", sent["connects"] == 4 and sent["resent"] == 0, sent["connects"])
    check_books(t, gateway)
    _, got, _ = cuts(t, folder / "control", lambda at, port: MosquittoGateway(at, port, inflight=WINDOW), "a bridge")
    t.check("control: the repetitions of Mosquitto's bridge cannot be recognised", got["duplicates_without_id"] > 0, f"{got['duplicates_without_id']} of {got['distinct']}")


with Theme("resent_dozens_of_times_out_of_order") as theme:
    main(theme)
