// The streams: backlog, pace, the last hour, and what an operator can do.
import { $, attribute, button, dialog, foreign, h, keyed, say, show, text } from "./dom.js";
import { ask } from "./feed.js";
import { chart, draw } from "./chart.js";
import { anchor } from "./overview.js";
import { bytes, count, moment, plural, rate, span } from "./words.js";

// What is younger is only passing through.
const MOMENT_S = 3;
let latest = new Map();
const api = (name, what) => `/api/v1/streams/${encodeURIComponent(name)}/${what}`;

// `done(stream)`: an operator did something, and this is what the gateway answered.
export function streams({ streams: all }, past, done) {
  latest = new Map(all.map((stream) => [stream.name, stream]));
  const cards = $("stream-cards");
  const none = cards.querySelector(".empty");
  if (all.length === 0 && !none) {
    cards.replaceChildren(h("p", { class: "empty" }, "No stream is configured, so nothing is stored or sent upstream: messages only go to clients of this gateway. Add a ",
      h("code", {}, "[[stream]]"), " with ", h("code", {}, "from"), " and ", h("code", {}, "to"), " to the configuration, and check it with ", h("code", {}, "tidegate check"), "."));
  }
  if (all.length > 0) none?.remove();
  keyed(cards, all, (stream) => stream.name, (stream) => make(stream.name, done), (part, stream) => change(part, stream, past));
}

function make(name, done) {
  const order = (what, words) => async () => {
    const answer = await ask(api(name, what), "POST");
    done(answer);
    say(words(answer));
  };
  const part = {
    to: h("small"),
    badges: h("p", { class: "badges" }),
    waits: h("strong"),
    size: h("span"),
    meter: h("meter", { min: 0, max: 1, low: 0.8, high: 0.95, optimum: 0 }),
    share: h("span"),
    pace: h("p", { class: "pace" }),
    drain: h("p", { class: "muted" }),
    chart: chart(),
    books: h("dl", { class: "rows" }),
    pause: button("Pause", name, order("pause", () => `${name} is paused: it stores, and sends nothing new.`)),
    resume: button("Resume", name, order("resume", () => `${name} goes on.`), "primary"),
    replay: button("Replay…", name, () => replay(name, done)),
    stop: button("Stop replay", `of ${name}`, order("replay?stop=true", () => `The replay of ${name} has ended.`)),
    purge: button("Purge…", name, () => purge(name, done), "danger"),
  };
  part.meter.setAttribute("aria-label", `${name}: share of its limit`);
  part.limit = h("p", { class: "limit" }, part.meter, part.share);
  part.root = h("article", { class: "card stream", id: anchor("stream", name), tabindex: "-1" },
    h("h3", {}, foreign(name), part.to), part.badges,
    h("p", { class: "big" }, part.waits, " ", part.size), part.limit, part.pace, part.drain, part.chart.root,
    h("details", {}, h("summary", {}, "Books", h("span", { class: "unseen" }, ` of ${name}`)), part.books),
    h("p", { class: "buttons" }, part.resume, part.pause, part.replay, part.stop, part.purge));
  return part;
}

function change(part, stream, past) {
  const { backlog, limit } = stream;
  text(part.to, stream.to ? ` → ${stream.to}` : stream.configured ? " kept here only" : "");
  const badges = [
    !stream.configured && ["warning", "▲ not configured any more"],
    stream.paused && ["notice", "● paused"],
    stream.replay && ["notice", `● replay: ${count(stream.replay.left)} left`],
  ].filter(Boolean);
  const said = badges.map(([, words]) => words).join();
  if (part.said !== said) part.badges.replaceChildren(...badges.map(([level, words]) => h("span", { class: `badge ${level}` }, words)));
  part.said = said;
  text(part.waits, count(backlog.messages));
  const old = (backlog.oldest_age_seconds ?? 0) >= MOMENT_S ? `, the oldest for ${span(Math.floor(backlog.oldest_age_seconds))}` : "";
  const word = stream.to || !stream.configured ? "waiting" : "kept here";
  text(part.size, backlog.messages > 0 ? `${word}, ${bytes(backlog.bytes)}${old}` : stream.to ? "waiting: all is sent" : word);
  show(part.limit, limit.used_ratio != null);
  if (limit.used_ratio != null) {
    attribute(part.meter, "value", String(Math.min(limit.used_ratio, 1)));
    const most = [limit.bytes != null && bytes(limit.bytes), limit.messages != null && plural(limit.messages, "message")].filter(Boolean).join(" or ");
    const percent = limit.used_ratio * 100;
    text(part.share, `${percent > 0 && percent < 1 ? "below 1" : Math.floor(percent)} % of ${most}`);
  }
  text(part.pace, `in ${rate(stream.rate_in_per_s)} · out ${rate(stream.rate_out_per_s)}`);
  text(part.drain, drain(stream));
  books(part.books, stream);
  show(part.pause, !stream.paused && stream.configured && Boolean(stream.to));
  show(part.resume, stream.paused);
  show(part.replay, !stream.replay && stream.configured && stream.kept.messages > 0 && Boolean(stream.to));
  show(part.stop, Boolean(stream.replay));
  show(part.purge, backlog.messages > 0);
  draw(part.chart, past.get(stream.name), stream);
}

function drain(stream) {
  if (stream.backlog.messages === 0 || !stream.to) return "";
  if (stream.backlog.oldest_age_seconds < MOMENT_S && stream.rate_out_per_s > 0) return "";
  if (stream.paused) return "Paused: the backlog stays until it is resumed.";
  if (stream.seconds_to_drain != null) return `Empty in about ${span(Math.max(1, Math.round(stream.seconds_to_drain)))} at this pace.`;
  return stream.rate_out_per_s > 0 ? "At this pace it does not get less." : "Nothing goes out at the moment.";
}

function books(list, stream) {
  const by = (reasons) => Object.entries(reasons).filter(([, number]) => number > 0).map(([why, number]) => `${why} ${count(number)}`).join(", ");
  const of = (total, reasons) => (by(reasons) ? `${count(total)} (${by(reasons)})` : count(total));
  const rows = [
    ["Accepted", count(stream.accepted)],
    ["Forwarded", count(stream.forwarded)],
    ["Expired", count(stream.expired)],
    ["Dropped", of(stream.dropped, stream.dropped_by_reason)],
    ["Dead letters, ever", of(stream.dead, stream.dead_by_reason)],
    ["Purged", count(stream.purged)],
    ["Backlog", count(stream.backlog.messages)],
    ["Kept for replay", stream.kept.messages ? `${count(stream.kept.messages)}, ${bytes(stream.kept.bytes)}` : "none"],
    ["Sent again in replays", count(stream.replayed)],
  ];
  keyed(list, rows, ([name]) => name, ([name]) => {
    const value = h("dd", { class: "foreign" });
    return { root: h("div", {}, h("dt", {}, name), value), value };
  }, (part, [, value]) => text(part.value, value));
}

async function purge(name, done) {
  const { backlog, to } = latest.get(name);
  const since = backlog.oldest_age_seconds == null ? "" : `, the oldest accepted ${moment(Date.now() - backlog.oldest_age_seconds * 1000)}`;
  const verb = `Purge ${plural(backlog.messages, "message")}`;
  const chosen = await dialog(["Purge ", foreign(name), "?"], [
    h("p", {}, h("strong", {}, `${plural(backlog.messages, "message")} (${bytes(backlog.bytes)})`), ` will be gone for good${since}.`),
    h("p", {}, to ? "They have not reached " : "They are kept here only", to ? foreign(to) : "", to ? ", and never will. They are counted as purged." : ". They are counted as purged."),
    h("p", { class: "muted" }, "What arrives until the gateway has done it goes too."),
  ], [{ label: "Keep them", value: null }, { label: verb, value: true, kind: "danger" }]);
  if (!chosen) return;
  const answer = await ask(api(name, "purge"), "POST");
  done(answer);
  say(`${plural(answer.messages, "message")} of ${name} purged.`);
}

async function replay(name, done) {
  const { kept, to } = latest.get(name);
  const spans = [["10m", "the last 10 minutes"], ["1h", "the last hour"], ["24h", "the last 24 hours"], ["", "everything that is kept"]];
  const select = h("select", { id: "since" }, ...spans.map(([value, words]) => h("option", { value }, words)));
  const since = await dialog(["Replay ", foreign(name), "?"], [
    h("p", {}, `${plural(kept.messages, "message")} (${bytes(kept.bytes)}) that `, foreign(to), " has acknowledged are kept. They are sent again, marked as replayed; new messages go on beside them."),
    h("p", {}, h("label", { for: "since" }, "Send again "), select),
  ], [{ label: "Cancel", value: null }, { label: "Replay", value: () => select.value, kind: "primary" }]);
  if (since == null) return;
  const answer = await ask(api(name, since ? `replay?since=${since}` : "replay"), "POST");
  done(answer);
  say(`${plural(answer.messages, "message")} of ${name} will be sent again.`);
}
