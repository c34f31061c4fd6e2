// MQTT.js in the ring of 25_restart.py: `mqttjs_keeper.js HOST PORT 4|5 NAME`. See there for what a keeper does.
"use strict";

const mqtt = require("mqtt");

const [host, port, version, name] = process.argv.slice(2);
const it = mqtt.connect(`mqtt://${host}:${port}`, {
  clientId: name, protocolVersion: Number(version), clean: false, reconnectPeriod: 200, resubscribe: false,
  properties: version === "5" ? { sessionExpiryInterval: 3600 } : undefined,
});
let sent = 0;
let published = 0;
let timer = null;
it.on("error", (error) => console.error(error.message));
it.on("message", (topic, payload, packet) => console.log(`GOT ${packet.qos} ${payload}`));
it.on("connect", (connack) => {
  // Only the first time; afterwards that would be a lost session.
  if (connack.sessionPresent) return;
  console.log("SUBSCRIBE");
  it.subscribe("ring/+", { qos: 2 }, (error) => {
    if (error) throw error;
    console.log("READY");
    timer ??= setInterval(() => it.publish(`ring/${name}`, `${name} ${sent++}`, { qos: 2 }, (failed) => { published += !failed; }), 20);
  });
});
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  if (line !== "stop") return;
  clearInterval(timer);
  const done = setInterval(() => {
    if (published < sent) return;
    clearInterval(done);
    console.log(`SENT ${sent} ${published}`);
  }, 50);
});
