// The dashboard: follows the gateway's events, and shows what they say.
import { $, attribute, say, show, text } from "./dom.js";
import { ask, follow, hasToken, setToken } from "./feed.js";
import { downlinks, figures, unknown, uplinks, verdict } from "./overview.js";
import { streams } from "./streams.js";
import { dead } from "./dead.js";
import { clients } from "./clients.js";
import { clock, moment, span } from "./words.js";

const HISTORY_MS = 10000;
const POINTS = 360;
let state = null;
let seenAt = null;
const past = { run: null, newest: null, readAt: 0, streams: new Map() };

function render() {
  const { status } = state;
  text($("gateway"), status.gateway_id);
  text($("identity"), `Tidegate ${status.version} · up for ${span(Math.floor(status.uptime_seconds))}`);
  verdict(state);
  figures(state);
  uplinks(state);
  streams(state, past.streams, operated);
  dead(state);
  downlinks(state);
  clients(state);
  footer(state);
}

function footer({ status, certificates }) {
  const now = status.clock.now ? `The gateway's clock says ${moment(status.clock.now)} in your time zone, ${status.clock.synced ? "synchronised" : "not synchronised"}.` : "The gateway's clock is not set.";
  const ends = certificates.map(({ file, not_after: end }) => `Certificate ${file} is good until ${end ? moment(end) : "unknown"}.`);
  text($("footer"), [now, `This page was brought up to date at ${clock(seenAt)}.`, ...ends].join(" "));
}

// What an operator did is shown at once, and not with the next event.
function operated(stream) {
  state.streams = state.streams.map((old) => (old.name === stream.name ? stream : old));
  render();
}

async function readHistory() {
  if (Date.now() - past.readAt < HISTORY_MS) return;
  past.readAt = Date.now();
  try {
    const known = past.newest == null ? "" : `?after=${past.newest}`;
    const answer = await ask(`/api/v1/history${known}`);
    if (past.run !== null && answer.run !== past.run) {
      past.streams.clear();
      past.newest = null;
      if (known) past.readAt = 0;
    }
    past.run = answer.run;
    if (past.readAt) take(answer);
    if (state) render();
  } catch {
    // The figures of the moment are worth more; the next try comes soon.
  }
}

function take(answer) {
  const names = new Set(answer.streams.map(({ name }) => name));
  for (const name of past.streams.keys()) if (!names.has(name)) past.streams.delete(name);
  let longest = 0;
  for (const { name, ...rows } of answer.streams) {
    const old = past.streams.get(name) ?? {};
    const joined = Object.fromEntries(Object.entries(rows).map(([key, row]) => [key, [...(old[key] ?? []), ...row].slice(-POINTS)]));
    past.streams.set(name, joined);
    longest = Math.max(longest, rows.backlog.length);
  }
  if (longest > 0) past.newest = answer.first + longest - 1;
}

// The connection to the gateway, in words; without it all figures are old.
function connection(level, words) {
  const banner = $("connection");
  attribute(banner, "class", `banner ${level}`);
  text(banner, words);
  attribute(document.body, "data-stale", String(level === "critical" && state !== null));
  for (const node of document.querySelectorAll("#board button")) node.disabled = level === "critical";
}

function lost(why) {
  const since = seenAt ? ` since ${clock(seenAt)}` : "";
  const old = state ? " The figures below are old." : "";
  const cause = why ? ` It says: ${why}` : "";
  connection("critical", `No connection to the gateway${since}.${old}${cause} Trying again by itself. On the device: systemctl status tidegate.`);
  if (state) unknown(clock(seenAt));
  document.title = `(no connection) ${state?.status.gateway_id ?? "Tidegate"}`;
}

function login(message) {
  show($("board"), false);
  show($("leave"), false);
  show($("login"), true);
  connection("", "");
  text($("gateway"), "Tidegate");
  text($("identity"), "MQTT edge gateway");
  text($("footer"), "");
  text($("refused"), hasToken() ? "This token was refused. It is the first line of the token file, without blanks around it." : "");
  setToken("");
  state = null;
  $("token").focus();
  return new Promise((resolve) => {
    $("login").onsubmit = (event) => {
      event.preventDefault();
      const said = $("token").value.trim();
      if (!/^[\x21-\x7e]+$/.test(said)) {
        text($("refused"), "A token is one word of visible ASCII characters.");
        return;
      }
      setToken(said);
      $("token").value = "";
      text($("refused"), "");
      show($("login"), false);
      resolve(message);
    };
  });
}

function themes() {
  const root = document.documentElement;
  const order = ["auto", "light", "dark"];
  let theme = "auto";
  const use = () => {
    root.setAttribute("data-theme", theme);
    text($("theme"), `Theme: ${theme}`);
  };
  try {
    theme = order.find((name) => name === localStorage.getItem("tidegate-theme")) ?? "auto";
  } catch {
    // A browser that keeps nothing has the system's theme.
  }
  use();
  $("theme").addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    use();
    try {
      localStorage.setItem("tidegate-theme", theme);
    } catch {
      // Until the page is left, then.
    }
  });
}

$("leave").addEventListener("click", () => {
  setToken("");
  location.reload();
});
themes();
connection("", "Connecting to the gateway…");

follow({
  state(event) {
    const first = state === null;
    state = event;
    seenAt = new Date();
    connection("", "");
    render();
    show($("board"), true);
    show($("leave"), hasToken());
    if (first && location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
    readHistory();
  },
  trouble({ message }) {
    seenAt = new Date();
    connection("warning", `The gateway answers, but cannot give its figures: ${message}`);
  },
  lost,
  denied: login,
}).catch((error) => say(error.message, true));
