// MQTT.js publishes and subscribes through the gateway: `mqttjs_client.js HOST PORT 4|5 PREFIX`; exits 0 when all is well.
// MQTT_SCHEME: mqtt, mqtts, ws or wss; MQTT_CA, MQTT_CERT, MQTT_KEY: files for TLS.
"use strict";

const assert = require("node:assert");
const fs = require("node:fs");
const mqtt = require("mqtt");

const scheme = process.env.MQTT_SCHEME || "mqtt";
const tls = {};
for (const name of ["CA", "CERT", "KEY"]) {
  const file = process.env[`MQTT_${name}`];
  if (file) tls[name.toLowerCase()] = fs.readFileSync(file);
}

const [host, port, version, prefix] = process.argv.slice(2);
const overdue = setTimeout(() => {
  console.error("not finished after 40 s");
  process.exit(1);
}, 40000);

async function client(name, options = {}) {
  const it = await mqtt.connectAsync(`${scheme}://${host}:${port}`, {
    clientId: `mqttjs-${version}-${name}`, protocolVersion: Number(version), reconnectPeriod: 0, ...tls, ...options,
  });
  const inbox = [];
  let wake = () => {};
  it.on("message", (topic, payload, packet) => {
    inbox.push({ topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain, properties: packet.properties });
    wake();
  });
  it.next = async () => {
    while (inbox.length === 0) await new Promise((done) => { wake = done; });
    return inbox.shift();
  };
  return it;
}

async function main() {
  const publisher = await client("publisher");
  const subscriber = await client("subscriber");
  await subscriber.subscribeAsync(`${prefix}/+/data`, { qos: 2 });
  for (let i = 0; i < 300; i++) {
    const qos = i % 3;
    await publisher.publishAsync(`${prefix}/q${qos}/data`, `message ${i}`, { qos });
    const got = await subscriber.next();
    assert.deepStrictEqual([got.topic, got.payload, got.qos], [`${prefix}/q${qos}/data`, `message ${i}`, qos]);
  }
  console.log("300 messages of every QoS came back in order");

  await Promise.all([...Array(900).keys()].map((i) => publisher.publishAsync(`${prefix}/${i % 3}/data`, `${i}`, { qos: i % 3 })));
  const last = [-1, -1, -1];
  for (let i = 0; i < 900; i++) {
    const { payload } = await subscriber.next();
    const number = Number(payload);
    assert.ok(last[number % 3] < number, `${number} after ${last[number % 3]}`);
    last[number % 3] = number;
  }
  console.log("900 at once came back, each QoS in order");

  await publisher.publishAsync(`${prefix}/kept`, "kept", { qos: 1, retain: true });
  const late = await client("late");
  await late.subscribeAsync(`${prefix}/kept`, { qos: 1 });
  const kept = await late.next();
  assert.deepStrictEqual([kept.payload, kept.retain], ["kept", true]);
  await publisher.publishAsync(`${prefix}/kept`, "", { qos: 1, retain: true });
  console.log("retained messages are kept");

  if (version === "5") {
    const properties = { userProperties: { unit: ["bar", "psi"] }, contentType: "text/plain", responseTopic: "answers/here" };
    await publisher.publishAsync(`${prefix}/props/data`, "x", { qos: 1, properties });
    const got = (await subscriber.next()).properties;
    assert.deepStrictEqual([...got.userProperties.unit], ["bar", "psi"]);
    assert.deepStrictEqual([got.contentType, got.responseTopic], ["text/plain", "answers/here"]);
    console.log("properties travel unchanged");
  }
  await Promise.all([publisher, subscriber, late].map((it) => it.endAsync()));
  clearTimeout(overdue);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
