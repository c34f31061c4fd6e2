"""paho-mqtt publishes and subscribes through the gateway: `paho_client.py HOST PORT 4|5 PREFIX`; exits 0 when all is well.
MQTT_SCHEME: mqtt, mqtts, ws or wss; MQTT_CA, MQTT_CERT, MQTT_KEY: files for TLS."""

import os
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

host, port, version, prefix = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
PATIENCE = 10
SCHEME = os.environ.get("MQTT_SCHEME", "mqtt")
TRANSPORT = "websockets" if SCHEME in ("ws", "wss") else "tcp"
CA, CERT, KEY = (os.environ.get(f"MQTT_{name}") for name in ("CA", "CERT", "KEY"))


def client(name, will=None):
    """A connected client, its inbox, and its `wait` for SUBACK and the like."""
    inbox, events = queue.Queue(), queue.Queue()
    it = mqtt.Client(CallbackAPIVersion.VERSION2, f"paho-{version}-{name}", transport=TRANSPORT,
                     protocol=mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311)
    if SCHEME in ("mqtts", "wss"):
        it.tls_set(CA, CERT, KEY)
    it.on_connect = lambda c, u, flags, reason, properties: events.put(("connect", reason.is_failure))
    it.on_subscribe = lambda c, u, mid, reasons, properties: events.put(("subscribe", any(r.is_failure for r in reasons)))
    it.on_message = lambda c, u, message: inbox.put(message)
    if will:
        it.will_set(*will)
    it.connect(host, port, 30)
    it.loop_start()
    assert events.get(timeout=PATIENCE) == ("connect", False), "not connected"
    return it, inbox, events


def subscribe(it, events, topic, qos, **more):
    it.subscribe(topic, options=SubscribeOptions(qos=qos, **more)) if version == 5 else it.subscribe(topic, qos)
    assert events.get(timeout=PATIENCE) == ("subscribe", False), "not subscribed"


def main():
    publisher, own, own_events = client("publisher")
    subscriber, inbox, events = client("subscriber")
    subscribe(subscriber, events, f"{prefix}/+/data", 2)

    for i in range(300):
        qos = i % 3
        publisher.publish(f"{prefix}/q{qos}/data", f"message {i}", qos=qos).wait_for_publish(PATIENCE)
        message = inbox.get(timeout=PATIENCE)
        assert (message.topic, message.payload, message.qos) == (f"{prefix}/q{qos}/data", f"message {i}".encode(), qos), message
    print("300 messages of every QoS came back in order")

    for i in range(900):
        publisher.publish(f"{prefix}/{i % 3}/data", f"{i}".encode() * 50, qos=i % 3)
    seen = [inbox.get(timeout=PATIENCE) for _ in range(900)]
    for qos in range(3):
        numbers = [int(m.payload[: len(m.payload) // 50]) for m in seen if m.topic == f"{prefix}/{qos}/data"]
        assert numbers == list(range(qos, 900, 3)), numbers[:20]
    print("900 at once came back, each QoS in order")

    publisher.publish(f"{prefix}/kept/data", "kept", qos=1, retain=True).wait_for_publish(PATIENCE)
    live = inbox.get(timeout=PATIENCE)
    assert (live.payload, live.retain) == (b"kept", False), "a live message has no retain flag"
    late, late_inbox, late_events = client("late")
    subscribe(late, late_events, f"{prefix}/kept/#", 1)
    kept = late_inbox.get(timeout=PATIENCE)
    assert (kept.payload, kept.retain) == (b"kept", True), "a retained message has it"
    publisher.publish(f"{prefix}/kept/data", b"", qos=1, retain=True).wait_for_publish(PATIENCE)
    assert late_inbox.get(timeout=PATIENCE).payload == inbox.get(timeout=PATIENCE).payload == b""
    print("retained messages are kept, marked, and deleted by an empty one")

    watcher, watched, watcher_events = client("watcher")
    subscribe(watcher, watcher_events, f"{prefix}/will", 1)
    doomed, _, _ = client("doomed", (f"{prefix}/will", "gone", 1, False))
    doomed.loop_stop()
    doomed.socket().close()
    assert watched.get(timeout=PATIENCE).payload == b"gone"
    print("a will is published")

    if version == 5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("unit", "bar"), ("unit", "psi"), ("place", "Pumpwerk Süd")]
        properties.ContentType = "application/json"
        properties.ResponseTopic = "answers/here"
        properties.CorrelationData = b"\x00\xff\x01"
        properties.PayloadFormatIndicator = 1
        publisher.publish(f"{prefix}/props/data", "{}", qos=1, properties=properties).wait_for_publish(PATIENCE)
        got = inbox.get(timeout=PATIENCE).properties
        assert got.UserProperty == properties.UserProperty, got.UserProperty
        assert (got.ContentType, got.ResponseTopic, got.CorrelationData) == ("application/json", "answers/here", b"\x00\xff\x01")
        assert got.PayloadFormatIndicator == 1
        print("properties travel unchanged")
        subscribe(publisher, own_events, f"{prefix}/own/data", 1, noLocal=True)
        publisher.publish(f"{prefix}/own/data", "mine", qos=1).wait_for_publish(PATIENCE)
        assert inbox.get(timeout=PATIENCE).payload == b"mine"
        assert own.empty(), "no-local was not honoured"
        print("no-local is honoured")

    subscriber.unsubscribe(f"{prefix}/+/data")
    for it in (publisher, subscriber, late, watcher):
        it.disconnect()
        it.loop_stop()


main()
