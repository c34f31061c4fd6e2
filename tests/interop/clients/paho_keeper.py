"""paho-mqtt in the ring of 25_restart.py: `paho_keeper.py HOST PORT 4|5 NAME`. See there for what a keeper does.

It connects again only when the port answers, and publishes only while connected: at a second attempt in a row paho-mqtt 2.1.0
sends a QoS 2 message whose PUBREL it had sent as a PUBLISH again, which is a new message to every broker (its
`_messages_reconnect_reset_out` takes its own state for that of a message never sent), and it publishes before CONNACK."""

import socket
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


def on_connect(client, _, flags, reason, properties):
    if not reason.is_failure and not flags.session_present:
        # The first time; afterwards that would be a lost session.
        say("SUBSCRIBE")
        client.subscribe("ring/+", 2)


def listen():
    for line in sys.stdin:
        if line.strip() == "stop":
            stop.set()


it = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311,
                 reconnect_on_failure=False, **({} if version == 5 else {"clean_session": False}))
it.on_connect = on_connect
it.on_subscribe = lambda *_: (say("READY"), subscribed.set())
it.on_message = lambda c, u, message: say(f"GOT {message.qos} {message.payload.decode()}")
complete = set()
it.on_publish = lambda c, u, mid, reason, properties: complete.add(mid)
it.max_inflight_messages_set(20)
more = {}
if version == 5:
    more = {"clean_start": False, "properties": Properties(PacketTypes.CONNECT)}
    more["properties"].SessionExpiryInterval = 3600
it.connect(host, port, 30, **more)


def answers():
    try:
        socket.create_connection((host, port), 1).close()
        return True
    except OSError:
        return False


def stay():
    while True:
        it.loop_forever()
        while not answers():
            time.sleep(0.05)
        try:
            it.reconnect()
        except OSError:
            pass


threading.Thread(target=stay, daemon=True).start()
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
