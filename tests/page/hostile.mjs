// Strangers' words in every place where words can come from, very many streams, and none at all: the page as it takes what it is told.
import { PHONE, check, has, inspect, open, soon } from "./browser.mjs";

const MARKUP = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><a href="javascript:window.hacked=1">x</a>\u202e${"w".repeat(300)}`;
// Words that the page knows are the gateway's own, and those that are not markup where they come from.
const KNOWN = new Set(["state", "level", "about", "now", "not_after", "version"]);

// Every text in a value that a stranger might have written becomes markup.
function poison(value, key) {
  if (typeof value === "string") return KNOWN.has(key) ? value : MARKUP;
  if (Array.isArray(value)) return value.map((item) => poison(item));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, poison(item, name)]));
  return value;
}

// The first event that the gateway itself tells.
async function told(address) {
  const stop = new AbortController();
  const answer = await fetch(`${address}/api/v1/events`, { signal: stop.signal });
  let text = "";
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    if (text.includes("\n\n")) break;
  }
  stop.abort();
  return JSON.parse(/^data: (.*)$/m.exec(text)[1]);
}

async function shown(browser, address, state, dead, options) {
  const page = await open(browser, address, options);
  page.expectFailures = true;
  const json = (body) => ({ status: 200, contentType: "application/json", body: JSON.stringify(body) });
  await page.route("**/api/v1/events", (route) => route.fulfill({ status: 200, contentType: "text/event-stream", body: `event: state\ndata: ${JSON.stringify(state)}\n\n` }));
  await page.route("**/api/v1/dead?*", (route) => route.fulfill(json({ ...state.dead, dead, next: null })));
  await page.route("**/api/v1/history*", (route) => route.fulfill(json({ step_seconds: 10, run: 1, first: 0, streams: [] })));
  await page.goto(address);
  await page.waitForSelector("#board:not([hidden])");
  return page;
}

export async function hostile(browser, address) {
  const real = await told(address);
  const letter = { id: 7, stream: "s", sequence: 1, reason: "r", detail: "d", died: null, accepted: null, bytes: 9, client: "c", topic: "t" };
  const alarms = ["critical", "warning", "notice"].map((level, at) => ({ level, about: ["store", "uplink", "stream"][at], name: "n", what: "w", advice: "a" }));
  const uplinks = real.status.uplinks.map((uplink) => ({ ...uplink, last_error: "e", state: "waiting" }));
  const bad = poison({ ...real, alarms, status: { ...real.status, uplinks }, certificates: [{ file: "f", not_after: null, left_seconds: 1 }], dead: { ...real.dead, messages: 1 } });
  let page = await shown(browser, address, bad, [poison(letter)], { viewport: PHONE });
  await soon(page, "strangers' words are there, as text", has, ["#dead-list", "<img src=x onerror="]);
  check("and nowhere markup", await page.evaluate(() => !window.hacked && !document.querySelector("main img, main script, main a[href^='javascript'], footer img")));
  check("nor on their way to be", (await page.complaints()).length === 0, (await page.complaints()).join("; "));
  await inspect(page, "hostile");
  await page.context().close();

  const many = Array.from({ length: 20 }, (_, at) => ({ ...real.streams[0], name: at % 7 === 3 ? `a-name-as-long-as-a-name-may-be-with-all-its-sixty-four-signs-${at}` : `line-${at}`, paused: at === 5,
    backlog: { messages: at * 12345, bytes: at * 1234567, oldest_age_seconds: at * 4000 }, limit: { messages: null, bytes: 1 << 30, used_ratio: at / 20 } }));
  page = await shown(browser, address, { ...real, streams: many }, [], { timezoneId: "Asia/Tokyo", locale: "de-DE" });
  await soon(page, "twenty streams are shown", () => document.querySelectorAll(".stream").length === 20);
  const utc = new Date(real.status.clock.now);
  const tokyo = new Date(utc.getTime() + 9 * 3600 * 1000).toISOString().slice(0, 19).replace("T", " ");
  await soon(page, "times are those of the viewer's zone, the same in every language", has, ["footer", tokyo]);
  await inspect(page, "many");
  await page.context().close();

  page = await shown(browser, address, { ...real, streams: [], status: { ...real.status, uplinks: [], downlinks: [] } }, []);
  await soon(page, "without a stream the page says what to do", has, ["#streams", "No stream is configured"]);
  await inspect(page, "empty");
  await page.context().close();
}
