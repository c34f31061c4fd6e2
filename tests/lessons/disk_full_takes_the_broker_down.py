"""The trap: a full disk takes the broker down, and its space is never given back.

Seen in iotedge (Azure/iotedge#835) and Mosquitto (eclipse/mosquitto#3394). Tidegate has a quota (`max_bytes`) and leaves a reserve (`min_free`) to everybody else;
it keeps running, answers pings, serves local clients, and gives space back in small steps once the backlog is gone. The control: with no
reserve the others on that disk have nothing left.
"""

import socket

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.namespace import free_bytes, own, small_disk
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream

MIB = 1 << 20
# What the log holds when nothing more is taken grows the database once more when it is moved there: up to 16 MiB of the reserve.
DISK_MIB, RESERVE_MIB, LOG_MIB = 96, 24, 16
# Up to 16 MiB of free pages are kept for what comes next, and the log has up to 16 MiB.
KEPT_MIB = 34
BOUND_US = 1_000_000


def pinged(port):
    """A client that was there before: PINGREQ, and what comes back."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02pp" + b"\xc0\x00")
        answer = b""
        while len(answer) < 6 and (data := client.recv(16)):
            answer += data
        return answer == b"\x20\x02\x00\x00\xd0\x00"


def fill_up(t, folder, store):
    folder.mkdir()
    disk = small_disk(t, folder / "disk", DISK_MIB)
    upstream = Upstream(t, folder, f"upstream-{folder.name}")
    gateway = Gateway(folder / "gateway", upstream.port, data=disk / "data", store=store).start()
    t.later(gateway.stop)
    empty = free_bytes(disk)
    upstream.down()
    sensors = Sensors(folder, gateway.port, sensors=2, mqtt=5, rate=8000, size=1000)
    wait_for("there is no more room", lambda: gateway.metric("tidegate_broker_refused_total", reason="disk-full")
             + gateway.metric("tidegate_broker_refused_total", reason="store-full") > 100, 60)
    return disk, upstream, gateway, sensors, empty


def main(t):
    folder = workspace(t)
    disk, upstream, gateway, sensors, empty = fill_up(t, folder / "reserve", f'min_free = "{RESERVE_MIB}MiB"')
    t.check("the broker stays up and answers pings", gateway.up() and pinged(gateway.port))
    t.check("it leaves the reserve to the others", free_bytes(disk) >= (RESERVE_MIB - LOG_MIB) * MIB, f"{free_bytes(disk) / MIB:.1f} MiB free")
    beside = Verifier(folder, gateway.port, "beside", filter="local/#", idle=5)
    local = Sensors(folder, gateway.port, "local", topic="local/{}", count=500, qos=0, client_prefix="l", first_sensor=70)
    local.result()
    got = beside.expect(local.journal)
    t.check("local clients hear each other", got["lost"] == 0, f"{got['distinct']}, slowest {got['latency']['max_us']} us")
    sent, full = sensors.stop(), free_bytes(disk)
    upstream.up()
    # While space is given back others publish on.
    during = Sensors(folder, gateway.port, "during", first_sensor=50, rate=200, mqtt=5)
    wait_for("the space is given back", lambda: free_bytes(disk) > empty - KEPT_MIB * MIB, 60, 0.1)
    later = during.stop()
    t.check("the space is given back to the file system", full < empty - KEPT_MIB * MIB,
            f"free: {empty / MIB:.1f} MiB at first, {full / MIB:.1f} when full, {free_bytes(disk) / MIB:.1f} now")
    t.check("without a pause", later["unacknowledged"] == 0 and later["ack"]["max_us"] < BOUND_US, f"slowest acknowledgement {later['ack']['max_us']} us")
    check_delivery(t, upstream.verifier.expect(sensors.journal, during.journal), "all that was acknowledged", new_ids_allowed=sent["resent"])
    check_books(t, gateway)

    disk, _, gateway, sensors, _ = fill_up(t, folder / "quota", 'max_bytes = "6MiB"\nmin_free = "0B"')
    used = sum(f.stat().st_size for f in gateway.data.iterdir() if f.is_file())
    t.check("a quota of 6 MiB is kept (beside the log, which has up to 16 MiB)", used <= 24 * MIB and gateway.metric("tidegate_store_bytes") <= 8 * MIB,
            f"{used / MIB:.1f} MiB of files, {gateway.metric('tidegate_store_bytes') / MIB:.1f} MiB of data")
    sensors.stop()

    disk, _, gateway, sensors, _ = fill_up(t, folder / "control", 'min_free = "0B"')
    t.check("control: with no reserve the others have nothing left", free_bytes(disk) < (RESERVE_MIB - LOG_MIB) * MIB, f"{free_bytes(disk) / MIB:.1f} MiB free")
    sensors.stop()


own()
with Theme("disk_full_takes_the_broker_down") as theme:
    main(theme)
