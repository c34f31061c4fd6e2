// Talking to the gateway: requests, the token, and the events that come once a second.
const SILENCE_MS = 8000;
const HIDDEN_MS = 30000;
const WAIT_MS = [500, 1000, 2000, 3000, 5000];
const KEY = "tidegate-token";

export class Denied extends Error {}

let token = "";
try {
  token = sessionStorage.getItem(KEY) ?? "";
} catch {
  // A browser that keeps nothing asks again after a reload.
}

export const hasToken = () => token !== "";

export function setToken(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // As above.
  }
}

async function request(path, method, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const message = said?.error?.message ?? `The gateway answered ${answer.status}.`;
  if (answer.status === 401) throw new Denied(message);
  throw Object.assign(new Error(message), { status: answer.status });
}

// The JSON of an answer. What goes wrong is an Error whose message can be shown.
export async function ask(path, method = "GET") {
  try {
    const answer = await request(path, method, AbortSignal.timeout(10000));
    return await answer.json();
  } catch (error) {
    if (error.name === "TimeoutError") throw new Error("The gateway did not answer within 10 s; what was asked may still be done.");
    if (error instanceof TypeError) throw new Error("The gateway does not answer.");
    throw error;
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits while nobody looks: the gateway gathers nothing for a page in the background.
function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

async function listen(on) {
  const stop = new AbortController();
  let silence = setTimeout(() => stop.abort(), SILENCE_MS);
  let hidden;
  const look = () => {
    clearTimeout(hidden);
    if (document.hidden) hidden = setTimeout(() => stop.abort(), HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", look);
  try {
    const answer = await request("/api/v1/events", "GET", stop.signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(() => stop.abort(), SILENCE_MS);
      const events = (held + value).split("\n\n");
      held = events.pop();
      for (const event of events) {
        const name = /^event: (.*)$/m.exec(event)?.[1];
        const data = /^data: (.*)$/m.exec(event)?.[1];
        if (name && data) on[name]?.(JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(silence);
    clearTimeout(hidden);
    document.removeEventListener("visibilitychange", look);
  }
}

// Follows the gateway for ever: `on.state`, `on.trouble`, `on.lost(why)`, `on.denied(message)` (resolves when there is another token).
export async function follow(on) {
  let tries = 0;
  const told = { ...on, state: (state) => { tries = 0; on.state(state); } };
  for (;;) {
    await visible();
    try {
      await listen(told);
      on.lost(null);
    } catch (error) {
      if (error instanceof Denied) {
        await on.denied(error.message);
        tries = 0;
        continue;
      }
      on.lost(error.status ? error.message : null);
    }
    await sleep(WAIT_MS[Math.min(tries, WAIT_MS.length - 1)]);
    tries += 1;
  }
}
