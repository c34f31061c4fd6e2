// MQTT.js in the ring of 25_restart.py: `mqttjs_keeper.js HOST PORT 4|5 NAME`. See there for what a keeper does.
"use strict";

const mqtt = require("mqtt");

const [host, port, version, name] = process.argv.slice(2);
const it = mqtt.connect(`mqtt://${host}:${port}`, {
  clientId: name, protocolVersion: Number(version), clean: false, reconnectPeriod: 200, resubscribe: false,
  properties: version === "5" ? { sessionExpiryInterval: 3600 } : undefined,
});
let sent = 0;
let answered = 0;
let published = 0;
let timer = null;
it.on("error", (error) => console.error(error.message));
it.on("message", (topic, payload, packet) => console.log(`GOT ${packet.qos} ${payload}`));
function publish() {
  if (!it.connected) return;
  const text = `${name} ${sent++}`;
  it.publish(`ring/${name}`, text, { qos: 2 }, (failed) => {
    answered += 1;
    published += !failed;
    // What it gives up with its connection it says, and the ring does without.
    if (failed) console.log(`FAILED ${text}`, failed.message);
  });
}
it.on("connect", (connack) => {
  // Only the first time; afterwards that would be a lost session.
  if (connack.sessionPresent) return;
  console.log("SUBSCRIBE");
  it.subscribe("ring/+", { qos: 2 }, (error) => {
    if (error) throw error;
    console.log("READY");
    timer ??= setInterval(publish, 20);
  });
});
require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
  if (line !== "stop") return;
  clearInterval(timer);
  const done = setInterval(() => {
    if (answered < sent) return;
    clearInterval(done);
    console.log(`SENT ${sent} ${published}`);
  }, 50);
});
