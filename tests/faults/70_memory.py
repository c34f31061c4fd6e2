"""Clients that publish as fast as they can while the disk is slow: memory stays bounded, and everybody else is served."""

import asyncio
import os

from lab.report import Theme
from rig import mqtt
from rig.trouble import Trouble, run

SECONDS = float(os.environ.get("FLOOD_SECONDS", "40"))
GROWTH_MAX_MIB = 96
CLIENTS = 6


async def flood(port, number, sent):
    """Never waits for an acknowledgement, only for room in the socket."""
    version, qos = (4, 1) if number % 3 == 0 else (5, 0) if number % 3 == 1 else (4, 2)
    packet_id = 0
    while True:
        line = mqtt.Line(version, f"flood-{number}", True)
        try:
            await line.open(port)
            reading = asyncio.ensure_future(listen(line))
            try:
                while not line.closed():
                    chunk = bytearray()
                    for _ in range(64):
                        packet_id = packet_id % 65535 + 1
                        chunk += mqtt.publish(version, f"sensors/f{number}", b"f:1;" + bytes(1000), qos, packet_id)
                    line.send(chunk)
                    await line.writer.drain()
                    sent[number] += len(chunk)
                    await asyncio.sleep(0)
            finally:
                reading.cancel()
                line.close()
        except (OSError, TimeoutError, AttributeError):
            pass
        line.close()
        await asyncio.sleep(0.05)


async def listen(line):
    async for _ in line.batches():
        pass


async def story(theme):
    async with Trouble(theme, "a flood while each sync takes 1 s", journal=False) as trouble:
        plant = trouble.plant
        for publisher in plant.publishers:
            publisher.running.clear()
        plant.upstream.turn("none")
        before = plant.process.rss_bytes()
        trouble.disk.rules("sync delay 1s")
        sent = [0] * CLIENTS
        floods = [asyncio.ensure_future(flood(plant.port, number, sent)) for number in range(CLIENTS)]
        most, end = 0, asyncio.get_running_loop().time() + SECONDS
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.1)
            most = max(most, plant.process.rss_bytes())
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
        trouble.check(f"resident memory grows by less than {GROWTH_MAX_MIB} MiB", most - before < GROWTH_MAX_MIB << 20,
                      f"{before / 2**20:.0f} MiB before, {most / 2**20:.0f} at most, {sum(sent) >> 20} MiB offered in {SECONDS:.0f} s")
        trouble.check("keep alive is answered, no client is thrown out", trouble.pinger.connects == 1 and trouble.pinger.worst_s < 2,
                      f"worst {trouble.pinger.worst_s:.2f} s")
        trouble.disk.rules()
        books = await plant.until("the books balance", plant.books)
        trouble.check("the books balance", True, books["telemetry"]["accepted"])
        began = asyncio.get_running_loop().time()
        code = await plant.stop(90)
        trouble.check("SIGTERM ends it with code 0", code == 0, f"code {code} after {asyncio.get_running_loop().time() - began:.1f} s")


with Theme("memory") as t:
    run(t, story)
