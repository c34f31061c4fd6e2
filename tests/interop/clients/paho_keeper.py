"""paho-mqtt in the ring of 25_restart.py: `paho_keeper.py HOST PORT 4|5 NAME`. See there for what a keeper does."""

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
                 **({} if version == 5 else {"clean_session": False}))
it.on_connect = on_connect
it.on_subscribe = lambda *_: (say("READY"), subscribed.set())
it.on_message = lambda c, u, message: say(f"GOT {message.qos} {message.payload.decode()}")
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
sent = []
while not stop.is_set():
    sent.append(it.publish(f"ring/{name}", f"{name} {len(sent)}", qos=2))
    time.sleep(0.02)
for message in sent:
    message.wait_for_publish(60)
say(f"SENT {len(sent)} {sum(m.is_published() for m in sent)}")
threading.Event().wait()
