"""A device that takes commands: `paho_device.py HOST PORT 4|5 NAME FILTER QOS keep|clean`.

Says READY PRESENT once it is subscribed (PRESENT: whether its session was there), GOT TOPIC QOS RETAIN PAYLOAD for each command.
Connects again by itself; ends with its standard input."""

import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

host, port, version, name, topics, qos, keeps = sys.argv[1:8]
out = threading.Lock()


def say(*words):
    with out:
        print(*words, flush=True)


def connected(it, _, flags, reason, properties):
    if reason.is_failure:
        return
    present = flags.session_present
    if not present:
        it.subscribe(topics, int(qos))
    else:
        say("READY", True)


five = version == "5"
clean = {} if five else {"clean_session": keeps == "clean"}
it = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311, **clean)
it.on_connect = connected
it.on_subscribe = lambda c, u, mid, reasons, properties: say("READY", False)
it.on_message = lambda c, u, m: say("GOT", m.topic, m.qos, int(m.retain), m.payload.decode())
it.reconnect_delay_set(0.05, 0.2)
more = {}
if five:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600 if keeps == "keep" else 0
    more = {"clean_start": keeps == "clean", "properties": properties}
it.connect_async(host, int(port), 10, **more)
it.loop_start()
sys.stdin.read()
it.disconnect()
it.loop_stop()
