// The clients: how many on each listener, and, when asked for, who they are.
import { $, button, dialog, figure, foreign, h, keyed, say, text } from "./dom.js";
import { ask } from "./feed.js";
import { bytes, count, plural, span, visible } from "./words.js";

const EVERY_MS = 5000;
const MOST = 200;
let read = 0;
let loading = false;

export function clients({ status }) {
  keyed($("listeners"), status.listeners, (listener) => listener.name, (listener) => figure(listener.name), (part, listener) => {
    text(part.value, count(listener.connections));
    text(part.remark, listener.bind);
  });
  if ($("client-details").open && Date.now() - read > EVERY_MS) load();
}

async function load() {
  if (loading) return;
  loading = true;
  read = Date.now();
  try {
    render(await ask(`/api/v1/clients?limit=${MOST}`));
  } catch (error) {
    $("client-list").kept = undefined;
    $("client-list").replaceChildren(h("p", { class: "empty" }, error.status === 404 ? "This gateway does not list its clients." : error.message));
  } finally {
    loading = false;
  }
}

function render({ clients: all, next, connected }) {
  const place = $("client-list");
  if (!place.rows) {
    place.rows = h("ul", { class: "letters" });
    place.note = h("p", { class: "muted" });
  }
  if (place.rows.parentNode !== place) place.replaceChildren(place.note, place.rows);
  text(place.note, all.length === 0 ? "Nobody is connected." : next ? `The first ${count(all.length)} of ${count(connected)}, by client id.` : plural(all.length, "client"));
  keyed(place.rows, all, (client) => client.id, make, (part, client) => {
    text(part.facts, [client.user && `user ${visible(client.user)}`, client.listener && `on ${client.listener}`, client.address && `from ${client.address}`, client.version && `MQTT ${client.version}`,
      `for ${span(Math.floor(client.since_seconds))}`].filter(Boolean).join(" · "));
    text(part.queue, `${plural(client.subscriptions, "subscription")} · ${count(client.in_flight)} in flight · ${plural(client.queued.messages, "message")} queued (${bytes(client.queued.bytes)})`);
  });
}

function make({ id }) {
  const facts = h("p", { class: "foreign" });
  const queue = h("p", { class: "muted" });
  const cut = button("Disconnect…", visible(id), () => disconnect(id), "danger");
  return { root: h("li", { class: "card letter" }, h("h3", {}, foreign(visible(id))), facts, queue, h("p", { class: "buttons" }, cut)), facts, queue };
}

async function disconnect(id) {
  const chosen = await dialog(["Disconnect ", foreign(visible(id)), "?"], [
    h("p", {}, "Its connection ends and its will is sent. Nothing stored is lost, and nothing keeps it from coming back: that is what passwords and access rules are for."),
  ], [{ label: "Leave it", value: null }, { label: "Disconnect", value: true, kind: "danger" }]);
  if (!chosen) return;
  await ask(`/api/v1/clients/${encodeURIComponent(id)}`, "DELETE");
  say(`${visible(id)} is disconnected.`);
  await load();
}

$("client-details").addEventListener("toggle", () => {
  if ($("client-details").open) load();
});
