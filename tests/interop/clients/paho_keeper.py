"""paho-mqtt in the ring of 25_restart.py: `paho_keeper.py HOST PORT 4|5 NAME`. See there for what a keeper does.

It publishes only while connected, for paho-mqtt 2.1.0 would do it before CONNACK, and mends one thing (see `Keeper`)."""

import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

host, port, version, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
said = threading.Lock()
subscribed = threading.Event()
stop = threading.Event()


def say(line):
    with said:
        print(line, flush=True)


class Keeper(mqtt.Client):
    """At a second attempt to connect in a row, paho-mqtt 2.1.0 takes a message that waits to send PUBREL again for one that was
    never sent, and publishes it anew: a second message, to every broker."""

    def _messages_reconnect_reset_out(self):
        for message in self._out_messages.values():
            if message.state == mqtt.mqtt_ms_resend_pubrel:
                message.state = mqtt.mqtt_ms_wait_for_pubcomp
        super()._messages_reconnect_reset_out()


def on_connect(client, _, flags, reason, properties):
    if not reason.is_failure and not flags.session_present:
        # The first time; afterwards that would be a lost session.
        say("SUBSCRIBE")
        client.subscribe("ring/+", 2)


def listen():
    for line in sys.stdin:
        if line.strip() == "stop":
            stop.set()


it = Keeper(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311,
                 **({} if version == 5 else {"clean_session": False}))
it.on_connect = on_connect
it.on_subscribe = lambda *_: (say("READY"), subscribed.set())
it.on_message = lambda c, u, message: say(f"GOT {message.qos} {message.payload.decode()}")
complete = set()
it.on_publish = lambda c, u, mid, reason, properties: complete.add(mid)
it.reconnect_delay_set(0.1, 0.3)
it.max_inflight_messages_set(20)
more = {}
if version == 5:
    more = {"clean_start": False, "properties": Properties(PacketTypes.CONNECT)}
    more["properties"].SessionExpiryInterval = 3600
it.connect(host, port, 30, **more)
it.loop_start()
threading.Thread(target=listen, daemon=True).start()
assert subscribed.wait(20), "not subscribed"
sent = 0
while not stop.is_set():
    if it.is_connected():
        # Where the connection is gone by now, it says so, and keeps the message for the next one.
        it.publish(f"ring/{name}", f"{name} {sent}", qos=2)
        sent += 1
    time.sleep(0.02)
while len(complete) < sent:
    time.sleep(0.05)
say(f"SENT {sent} {len(complete)}")
threading.Event().wait()
