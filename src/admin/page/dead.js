// The dead letters: listed, looked at (as text, JSON or hex, never as markup), retried, deleted.
import { $, button, dialog, foreign, h, keyed, press, say, show, text } from "./dom.js";
import { ask } from "./feed.js";
import { bytes, moment, plural, visible } from "./words.js";

const PAGE = 20;
const SHOWN_BYTES = 65536;
let list = [];
let next = null;
let seen = "";
let loading = false;

// Reads the list again when its figures have changed.
export async function dead({ dead: stats }) {
  show($("dead-purge"), stats.messages > 0);
  text($("dead-none"), stats.messages === 0 ? "None: every message that was sent could be delivered." : `${plural(stats.messages, "message")}, ${bytes(stats.bytes)}. Each says why it could not be delivered; retry puts it at the end of its stream.`);
  const now = `${stats.messages} ${stats.retried} ${stats.purged} ${stats.dropped}`;
  if (now === seen || loading) return;
  loading = true;
  try {
    await load(Math.max(PAGE, list.length));
    seen = now;
  } catch (error) {
    say(error.message, true);
  } finally {
    loading = false;
  }
}

async function load(limit) {
  const answer = await ask(`/api/v1/dead?limit=${Math.min(limit, 1000)}`);
  ({ dead: list, next } = answer);
  render();
}

function render() {
  show($("dead-more"), next != null);
  keyed($("dead-list"), list, (letter) => letter.id, make, () => {});
}

function make(letter) {
  const { id } = letter;
  const named = (label, act, kind) => button(label, `dead letter ${id}`, act, kind);
  const root = h("li", { class: "card letter", tabindex: "-1" },
    h("h3", {}, `${id} · `, foreign(letter.reason), h("small", {}, " from ", foreign(letter.stream))),
    h("p", { class: "foreign" }, visible(letter.detail)),
    h("p", { class: "muted" }, letter.topic == null ? "topic unknown" : foreign(visible(letter.topic)), " · ",
      letter.client == null ? "client unknown" : foreign(visible(letter.client)), ` · ${bytes(letter.bytes)}`,
      letter.died ? ` · ${moment(letter.died)}` : ""),
    h("p", { class: "buttons" }, named("Look", () => look(id)), named("Retry", () => done(id, "POST", "/retry", "goes to the end of its stream")),
      named("Delete…", () => remove(letter), "danger")));
  return { root };
}

async function done(id, method, what, words) {
  await ask(`/api/v1/dead/${id}${what}`, method);
  const at = list.findIndex((letter) => letter.id === id);
  list = list.filter((letter) => letter.id !== id);
  render();
  // Who works with the keyboard goes on where the letter was.
  ($("dead-list").children[Math.min(at, list.length - 1)] ?? $("main")).focus({ preventScroll: true });
  say(`Dead letter ${id} ${words}.`);
}

async function remove({ id, stream, topic, bytes: size }) {
  const chosen = await dialog([`Delete dead letter ${id}?`], [
    h("p", {}, "This message of ", foreign(stream), topic ? " to " : "", topic ? foreign(visible(topic)) : "", ` (${bytes(size)}) will be gone for good. It has not been delivered, and never will be.`),
  ], [{ label: "Keep it", value: null }, { label: "Delete", value: true, kind: "danger" }]);
  if (chosen) await done(id, "DELETE", "", "is deleted");
}

function payload(message) {
  if (message.payload_base64 == null) return new TextEncoder().encode(message.payload ?? "");
  return Uint8Array.from(atob(message.payload_base64), (sign) => sign.charCodeAt(0));
}

function hex(data) {
  const lines = [];
  for (let at = 0; at < data.length; at += 16) {
    const row = [...data.subarray(at, at + 16)];
    const signs = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47)}  ${signs}`);
  }
  return lines.join("\n");
}

// Lines and indentation only: what is written stays as it was written, to the last digit of a number.
function indent(json) {
  let depth = 0;
  let before = "";
  let out = "";
  const line = () => `\n${"  ".repeat(Math.min(depth, 30))}`;
  for (const token of json.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? []) {
    if (token === "}" || token === "]") {
      depth -= 1;
      out += before === "{" || before === "[" ? token : line() + token;
    } else {
      if (before === "{" || before === "[" || before === ",") out += line();
      out += token === ":" ? ": " : token;
      if (token === "{" || token === "[") depth += 1;
    }
    before = token;
  }
  return out;
}

function views(message, data) {
  const part = data.subarray(0, SHOWN_BYTES);
  const forms = [["Hex", () => hex(part)]];
  if (message.payload != null) {
    forms.unshift(["Text", () => visible(message.payload.slice(0, SHOWN_BYTES))]);
    try {
      JSON.parse(message.payload);
      forms.unshift(["JSON", () => visible(indent(message.payload.slice(0, SHOWN_BYTES)))]);
    } catch {
      // It is no JSON.
    }
  }
  return forms;
}

function download(data, name) {
  const address = URL.createObjectURL(new Blob([data], { type: "application/octet-stream" }));
  const link = h("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// On plain HTTP there is no clipboard but the old one.
async function copy(words, near) {
  if (navigator.clipboard) return navigator.clipboard.writeText(words);
  const area = h("textarea", { class: "unseen", readonly: true });
  area.value = words;
  near.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("The browser does not let this page copy; use Download.");
}

async function look(id) {
  const letter = await ask(`/api/v1/dead/${id}`);
  const { message } = letter;
  const facts = [["Reason", letter.reason], ["What happened", letter.detail], ["Stream", `${letter.stream}, number ${letter.sequence}`], ["Topic", letter.topic ?? "unknown"],
    ["Client", letter.client ?? "unknown"], ["Accepted", letter.accepted ? moment(letter.accepted) : "unknown"], ["Dead since", letter.died ? moment(letter.died) : "unknown"],
    ["Content type", message?.content_type], ["Properties", message?.user_properties?.map((pair) => pair.join("=")).join(", ")]];
  const rows = h("dl", { class: "rows" }, ...facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "foreign" }, visible(value)))));
  const choices = [{ label: "Close", value: null }];
  if (!message) {
    await dialog([`Dead letter ${id}`], [rows, h("p", {}, "The message itself cannot be read any more.")], choices);
    return;
  }
  const data = payload(message);
  const forms = views(message, data);
  const shown = h("pre", { tabindex: "0", "aria-label": "Payload", class: "foreign" }, forms[0][1]());
  const pick = forms.map(([name, form], at) => {
    const input = h("input", { type: "radio", name: "form", id: `form-${name}`, checked: at === 0 });
    input.addEventListener("change", () => text(shown, form()));
    return h("span", { class: "choice" }, input, h("label", { for: `form-${name}` }, name));
  });
  const tools = h("p", { class: "buttons" }, button("Copy", "the payload", async () => {
    await copy(message.payload ?? hex(data), tools);
    say("Payload copied.");
  }), button("Download", "the payload", () => download(data, `dead-letter-${id}.bin`)));
  await dialog([`Dead letter ${id}`], [rows,
    h("fieldset", {}, h("legend", {}, `Payload, ${bytes(data.length)}${data.length > SHOWN_BYTES ? `; the first ${bytes(SHOWN_BYTES)} are shown, Download has all` : ""}`), ...pick, shown, tools),
  ], choices, { wide: true });
}

$("dead-more").addEventListener("click", (event) => press(event.currentTarget, async () => {
  const answer = await ask(`/api/v1/dead?after=${next}&limit=${PAGE}`);
  list = [...list, ...answer.dead];
  ({ next } = answer);
  render();
}));

$("dead-purge").addEventListener("click", (event) => press(event.currentTarget, async () => {
  const { messages, bytes: size } = await ask("/api/v1/dead?limit=1");
  const chosen = await dialog(["Delete all dead letters?"], [
    h("p", {}, h("strong", {}, `${plural(messages, "message")} (${bytes(size)})`), " will be gone for good. None of them has been delivered, and none will be."),
  ], [{ label: "Keep them", value: null }, { label: `Delete ${plural(messages, "message")}`, value: true, kind: "danger" }]);
  if (!chosen) return;
  const answer = await ask("/api/v1/dead?all=true", "DELETE");
  say(`${plural(answer.messages, "dead letter")} deleted.`);
}));
