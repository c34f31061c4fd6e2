// The top of the page: the verdict, the alarms, the key figures, uplinks and downlinks.
import { $, attribute, figure, foreign, h, keyed, show, text } from "./dom.js";
import { bytes, count, milliseconds, plural, rate, short, span, visible } from "./words.js";

// The gateway does not answer: what was true may not be true any more.
export function unknown(at) {
  attribute($("verdict"), "data-level", "unknown");
  text($("verdict-mark"), "?");
  const title = $("verdict-title");
  if (!title.textContent.startsWith("Unknown")) text($("verdict-sub"), `At ${at}: ${title.textContent}. ${$("verdict-sub").textContent}`);
  text(title, "Unknown: the gateway does not answer");
}

// Shapes as well as colours.
const MARKS = { critical: "✖", warning: "▲", notice: "●", good: "✔" };
const TARGETS = { uplink: "uplinks", stream: "streams", dead: "dead", store: "figures", clock: "footer" };

// Ids of cards are made of names, which are [A-Za-z0-9_.-].
export const anchor = (kind, name) => `${kind}-${name}`;

export function verdict({ alarms, streams, status }) {
  const worst = ["critical", "warning", "notice"].find((level) => alarms.some((alarm) => alarm.level === level));
  const level = !worst || worst === "notice" ? "good" : worst;
  const title = { critical: "Act now: ", warning: "Needs attention: " }[level];
  const urgent = alarms.filter((alarm) => alarm.level !== "notice").length;
  attribute($("verdict"), "data-level", level);
  text($("verdict-mark"), MARKS[level]);
  text($("verdict-title"), title ? title + plural(urgent, "alarm") : "All is well");
  const sum = (of) => streams.reduce((total, stream) => total + of(stream), 0);
  const waiting = sum((stream) => stream.backlog.messages);
  const moving = `${rate(sum((stream) => stream.rate_in_per_s))} in, ${rate(sum((stream) => stream.rate_out_per_s))} out`;
  const away = status.uplinks.filter((uplink) => uplink.state !== "connected").length;
  const links = status.uplinks.length === 0 ? "no uplink" : away ? `${away} of ${plural(status.uplinks.length, "uplink")} away` : `${plural(status.uplinks.length, "uplink")} connected`;
  text($("verdict-sub"), `${waiting === 0 ? "Nothing waits" : `${plural(waiting, "message")} on disk`} · ${moving} · ${links}`);
  keyed($("alarms"), alarms, (alarm) => `${alarm.level} ${alarm.about} ${alarm.name} ${alarm.what.replace(/\d+/g, "")}`, makeAlarm, changeAlarm);
  document.title = `${urgent ? `(${urgent}) ` : ""}${status.gateway_id} · Tidegate`;
}

function makeAlarm(alarm) {
  const what = h("p", { class: "what foreign" });
  const advice = h("p", { class: "advice foreign" });
  const target = alarm.name && (alarm.about === "uplink" || alarm.about === "stream") ? anchor(alarm.about, alarm.name) : TARGETS[alarm.about];
  const link = target ? h("a", { href: `#${target}` }, "Show", h("span", { class: "unseen" }, ` ${alarm.about} ${alarm.name ?? ""}`)) : null;
  const root = h("li", { class: `alarm ${alarm.level}` },
    h("span", { class: "mark", "aria-hidden": "true" }, MARKS[alarm.level]),
    h("div", {}, h("span", { class: "level" }, alarm.level), what, advice), link);
  return { root, what, advice };
}

function changeAlarm(part, alarm) {
  text(part.what, short(visible(alarm.what)));
  if (part.said === alarm.advice) return;
  part.said = alarm.advice;
  part.advice.replaceChildren(...alarm.advice.split("`").map((words, at) => (at % 2 ? h("code", {}, words) : words)));
}

let tiles;
export function figures({ status, streams, commit }) {
  const names = ["Waiting on disk", "Coming in", "Going out", "Oldest message", "Commit to disk", "Store", "Clients"];
  tiles ??= names.map((name) => {
    const tile = figure(name);
    $("figures").append(tile.root);
    return tile;
  });
  const set = (at, value, remark) => {
    text(tiles[at].value, value);
    text(tiles[at].remark, remark);
  };
  const sum = (of) => streams.reduce((total, stream) => total + of(stream), 0);
  const { store } = status;
  set(0, count(sum((stream) => stream.backlog.messages)), `messages, ${bytes(sum((stream) => stream.backlog.bytes))}`);
  set(1, rate(sum((stream) => stream.rate_in_per_s)), `${count(sum((stream) => stream.accepted))} ever`);
  set(2, rate(sum((stream) => stream.rate_out_per_s)), `${count(sum((stream) => stream.forwarded))} ever`);
  const ages = streams.map((stream) => stream.backlog.oldest_age_seconds).filter((age) => age != null);
  set(3, ages.length ? span(Math.floor(Math.max(...ages))) : "none", ages.length ? "in the backlog" : "nothing waits");
  const last = store.last_commit_ago_seconds == null ? "none yet" : store.last_commit_ago_seconds < 2 ? "last just now" : `last ${span(Math.floor(store.last_commit_ago_seconds))} ago`;
  if (commit) set(4, milliseconds(commit.p50_seconds), `p99 ${milliseconds(commit.p99_seconds)}, ${last}`);
  else set(4, "idle", last);
  set(5, bytes(store.bytes), `${bytes(store.free_bytes)} free on the disk`);
  const clients = status.listeners.reduce((total, listener) => total + listener.connections, 0);
  set(6, count(clients), `on ${plural(status.listeners.length, "listener")}`);
}

const STATES = {
  connected: ["good", "connected"],
  connecting: ["warning", "connecting"],
  waiting: ["warning", "away, tries again"],
  stopped: ["critical", "stopped"],
};

function empty(parent, none, words) {
  if (none && !parent.querySelector(".empty")) parent.replaceChildren(h("p", { class: "empty" }, ...words));
  if (!none) parent.querySelector(".empty")?.remove();
}

export function uplinks({ status, away_seconds: away, streams }) {
  const cards = $("uplink-cards");
  empty(cards, status.uplinks.length === 0, ["No uplink is configured, so nothing goes upstream. Add an ", h("code", {}, "[[uplink]]"), " with its ", h("code", {}, "url"), " to the configuration."]);
  keyed(cards, status.uplinks, (uplink) => uplink.name, makeUplink, (part, uplink) => {
    const [level, words] = STATES[uplink.state] ?? ["notice", uplink.state];
    attribute(part.root, "data-level", level);
    text(part.mark, MARKS[level]);
    text(part.state, `${words} · ${span(Math.floor(away[uplink.name] ?? uplink.since_seconds))}`);
    const waits = streams.filter((stream) => stream.to === uplink.name).reduce((total, stream) => total + stream.backlog.messages, 0);
    text(part.address.value, uplink.url ?? "none: not connected");
    text(part.flight.value, `${count(uplink.in_flight)} in flight, ${count(waits)} waiting`);
    text(part.connects.value, count(uplink.connects));
    text(part.error.value, short(visible(uplink.last_error ?? "")));
    show(part.error.root, Boolean(uplink.last_error));
    text(part.errorName, uplink.state === "connected" ? "Last error (over)" : "Last error");
  });
}

function row(name, kind = "") {
  const value = h("dd", { class: kind });
  const term = h("dt", {}, name);
  return { root: h("div", {}, term, value), value, term };
}

function makeUplink(uplink) {
  const mark = h("span", { class: "mark", "aria-hidden": "true" });
  const state = h("span", { class: "state" });
  const [address, flight, connects, error] = [row("Address", "foreign"), row("Messages"), row("Connections made"), row("Last error", "foreign error")];
  const root = h("article", { class: "card", id: anchor("uplink", uplink.name), tabindex: "-1" },
    h("h3", {}, foreign(uplink.name)), h("p", { class: "badge" }, mark, state),
    h("dl", { class: "rows" }, error.root, address.root, flight.root, connects.root));
  return { root, mark, state, address, flight, connects, error, errorName: error.term };
}

export function downlinks({ status }) {
  show($("downlinks"), status.downlinks.length > 0);
  keyed($("downlink-cards"), status.downlinks, (downlink) => downlink.name, (downlink) => {
    const [waiting, delivered, lost] = [row("Waiting for local clients"), row("Received, delivered"), row("Expired, dropped")];
    const root = h("article", { class: "card" }, h("h3", {}, foreign(downlink.name), h("small", {}, " from ", foreign(downlink.from))),
      h("dl", { class: "rows" }, waiting.root, delivered.root, lost.root));
    return { root, waiting, delivered, lost };
  }, (part, downlink) => {
    text(part.waiting.value, `${plural(downlink.waiting.messages, "message")}, ${bytes(downlink.waiting.bytes)}`);
    text(part.delivered.value, `${count(downlink.received)}, ${count(downlink.delivered)}`);
    text(part.lost.value, `${count(downlink.expired)}, ${count(downlink.dropped)}`);
  });
}
