// The story of a day at the plant, as the page tells it.
import { check, has, inspect, launch, open, score, soon, tabTo, words } from "./browser.mjs";
import { startPlant } from "./plant.mjs";
import { hostile } from "./hostile.mjs";

const MARKUP = `<img src=x onerror="window.hacked=1"><b>bold</b>`;
const CARD = "#stream-telemetry";

async function calm(page, plant) {
  await plant.publish("sensors/a", "23.5", 20);
  await soon(page, "a quiet plant is said to be well", has, ["#verdict", "All is well"]);
  await soon(page, "what was published has gone upstream", has, ["#figures", "20 ever"]);
  check("the uplink says where it is connected to", (await words(page, "#uplinks")).includes("mqtt://127.0.0.1"));
  check("a stream without `to` says that it is kept here", (await words(page, "#stream-local")).includes("kept here"));
  check("without motion where none is wanted", await page.evaluate(() => getComputedStyle(document.documentElement).scrollBehavior) === "smooth"
    && (await page.emulateMedia({ reducedMotion: "reduce" }), await page.evaluate(() => getComputedStyle(document.documentElement).scrollBehavior)) === "auto");
  await inspect(page, "calm");
}

async function outage(page, plant) {
  await plant.upstream_down();
  await plant.publish("sensors/a", "23.5", 50);
  await soon(page, "an outage appears, with since when and why", () => /uplink cloud has been away for \d+s: .*refused/i.test(document.querySelector("#alarms").innerText));
  await soon(page, "the backlog is seen to have grown", has, [CARD, "50"]);
  check("the alarm says that what waits is safe, and what to do", /50 messages wait for it, safe on disk.*tidegate doctor/s.test(await words(page, "#alarms")));
  check("the title says it too", (await page.title()).startsWith("(1) lab"));
  await inspect(page, "outage");
  await plant.upstream_up();
  await soon(page, "the backlog drains by itself", has, [CARD, "0 waiting"]);
  await soon(page, "and all is well again", has, ["#verdict", "All is well"]);
  await soon(page, "the error that is over is told as over", has, ["#uplink-cloud", "Last error (over)"]);
  await soon(page, "the last hour has a chart", () => document.querySelector("#stream-telemetry .edge").getAttribute("d").length > 20);
}

async function keyboardAndDead(page, plant) {
  await plant.publish(`sensors/${MARKUP}`, MARKUP.padEnd(5000, " x"), 1, MARKUP);
  await plant.publish("sensors/other", JSON.stringify({ reading: "n", filler: "y".repeat(5000), none: [], more: { deep: true } }).replace('"n"', "12345678901234567890"));
  await soon(page, "poison becomes a dead letter, with an alarm", has, ["#alarms", "2 messages could not be delivered"]);
  await soon(page, "its topic is told as text", has, ["#dead-list", `sensors/${MARKUP}`]);
  await inspect(page, "dead letters");
  await page.evaluate(() => document.activeElement.blur());
  await tabTo(page, "Look dead letter");
  await page.keyboard.press("Enter");
  await soon(page, "a dead letter is looked at, its payload as text", (markup) => document.querySelector("dialog[open] pre")?.textContent.startsWith(markup), MARKUP);
  check("what it says is not markup", await page.evaluate(() => !window.hacked && !document.querySelector("main img, dialog img, dialog b")));
  await inspect(page, "dead letter dialog");
  await page.keyboard.press("Tab");
  await page.keyboard.press("ArrowRight");
  await soon(page, "and as hex", has, ["dialog[open] pre", "3c 69 6d 67 20 73 72 63"]);
  await page.keyboard.press("Escape");
  await soon(page, "Escape closes, and the focus is back", () => !document.querySelector("dialog[open]") && document.activeElement.textContent.startsWith("Look"));
  await page.locator("#dead-list li").nth(1).getByRole("button", { name: "Look" }).click();
  await soon(page, "JSON is laid out, and its numbers are what they were", () => document.querySelector("dialog[open] pre").textContent.startsWith('{\n  "reading": 12345678901234567890,\n  "filler": "yy')
    && document.querySelector("dialog[open] pre").textContent.endsWith('  "none": [],\n  "more": {\n    "deep": true\n  }\n}'));
  await page.keyboard.press("Escape");
  await page.locator("#dead-list li").nth(0).getByRole("button", { name: "Look" }).focus();
  await tabTo(page, "Delete…");
  await page.keyboard.press("Enter");
  await soon(page, "to delete asks first, from the harmless answer on", () => document.querySelector("dialog[open]")?.innerText.includes("gone for good") && document.activeElement.textContent.startsWith("Keep it"));
  await tabTo(page, "Delete", 5);
  await page.keyboard.press("Enter");
  await soon(page, "deleted by the keyboard alone", () => document.querySelectorAll("#dead-list li").length === 1);
  await plant.upstream_takes_more();
  await tabTo(page, "Retry");
  await page.keyboard.press("Enter");
  await soon(page, "a retry once the cause is gone delivers it", has, ["#dead", "None: every message"]);
  await soon(page, "and its alarm has gone", has, ["#verdict", "All is well"]);
}

async function operated(page, plant) {
  const button = (name) => page.locator(CARD).getByRole("button", { name });
  await button("Pause").click();
  await soon(page, "a paused stream says so at once", has, [CARD, "paused"]);
  await plant.publish("sensors/a", "1", 5);
  await soon(page, "and keeps what comes", has, [CARD, "5 waiting"]);
  await button("Purge").click();
  await soon(page, "to purge names what will be lost", () => /5 messages .* gone for good.*have not reached cloud/s.test(document.querySelector("dialog[open]").innerText));
  await inspect(page, "purge dialog");
  await page.getByRole("button", { name: "Keep them" }).click();
  await soon(page, "no means no", has, [CARD, "5 waiting"]);
  await button("Resume").click();
  await soon(page, "a resumed stream drains", has, [CARD, "0 waiting"]);
  await button("Pause").click();
  await soon(page, "paused again", has, [CARD, "paused"]);
  await plant.publish("sensors/a", "1", 3);
  await soon(page, "three wait", has, [CARD, "3 waiting"]);
  await button("Purge").click();
  await page.getByRole("button", { name: "Purge 3 messages" }).click();
  await soon(page, "yes means yes", has, ["#news", "3 messages of telemetry purged"]);
  await button("Resume").click();
  await button("Replay").click();
  await page.locator("dialog select").selectOption("1h");
  await page.getByRole("button", { name: "Replay", exact: true }).click();
  await soon(page, "kept messages are sent again", () => /\d+ messages of telemetry will be sent again/.test(document.querySelector("#news").innerText));
}

async function clients(page, plant) {
  await plant.linger(MARKUP);
  await soon(page, "a client is counted", () => Number(document.querySelector("#listeners .value").innerText) === 1);
  if (!(await page.evaluate(() => fetch("/api/v1/clients").then((answer) => answer.ok)))) {
    check("the gateway lists its clients", false);
    return;
  }
  await page.locator("#client-details summary").click();
  await soon(page, "and named, as text", has, ["#client-list", MARKUP]);
  await page.locator("#client-list").getByRole("button", { name: "Disconnect" }).click();
  await page.locator("dialog").getByRole("button", { name: "Disconnect" }).click();
  await soon(page, "and disconnected", has, ["#news", "is disconnected"]);
}

async function gatewayGone(page, plant) {
  page.expectFailures = true;
  await plant.gateway_kill();
  await soon(page, "a gateway that is gone is said to be gone", has, ["#connection", "No connection to the gateway since"]);
  check("its figures are called old, and nothing can be pressed", (await words(page, "#connection")).includes("figures below are old")
    && await page.evaluate(() => [...document.querySelectorAll("#board button")].every((button) => button.disabled)));
  check("nothing is said to be well any more", (await words(page, "#verdict")).includes("Unknown: the gateway does not answer"));
  await inspect(page, "gone");
  await plant.gateway_start();
  await soon(page, "it comes back by itself", () => document.querySelector("#connection").innerText === "" && !document.querySelector("#board button").disabled);
  await soon(page, "with the figures of before", has, ["#figures", "ever"]);
}

async function token(page, plant) {
  const secret = await plant.gateway_with_token();
  await soon(page, "a gateway with a token asks for it", () => !document.querySelector("#login").hidden && document.querySelector("#board").hidden);
  check("and shows no figure before it has it", !(await words(page, "main")).includes("telemetry"));
  await inspect(page, "token");
  await page.keyboard.type("wrong");
  await page.keyboard.press("Enter");
  await soon(page, "a wrong token is refused in words", has, ["#refused", "was refused"]);
  await page.keyboard.type(secret);
  await page.keyboard.press("Enter");
  await soon(page, "the right one opens", () => !document.querySelector("#board").hidden);
  check("it stays in this tab only", await page.evaluate((said) => !JSON.stringify({ ...localStorage }).includes(said) && !document.cookie && !location.href.includes(said), secret));
  await page.reload();
  await soon(page, "and is known after a reload", () => !document.querySelector("#board").hidden);
  await page.getByRole("button", { name: "Forget token" }).click();
  await soon(page, "until it is forgotten", () => !document.querySelector("#login").hidden);
}

const plant = startPlant();
const browser = await launch();
const began = Date.now();
try {
  const address = await plant.address();
  const page = await open(browser, address);
  await page.goto(address);
  for (const chapter of [calm, outage, keyboardAndDead, operated, clients]) await chapter(page, plant);
  await hostile(browser, address);
  await gatewayGone(page, plant);
  await token(page, plant);
  const complaints = await page.complaints();
  check("no console error, no violation of the policy, no request to elsewhere", complaints.length === 0, complaints.join("; "));
  check("the gateway stops in order while it is looked at", await plant.end() === 0);
} catch (error) {
  check("runs to its end", false, error.stack);
} finally {
  await browser.close();
  plant.close();
}
const { passed, failed } = score();
console.log(`${passed} passed, ${failed} failed (page, ${Math.round((Date.now() - began) / 1000)} s)`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
