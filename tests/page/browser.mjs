// A browser that is watched: what it asks for, what it complains of, what axe says, what it looks like.
import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const require = createRequire(join(process.env.PAGE_MODULES, "package.json"));
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const SHOTS = process.env.KEEP_SCREENSHOTS;
export const DESKTOP = { width: 1280, height: 900 };
export const PHONE = { width: 360, height: 740 };
const PATIENCE_MS = 15000;

let passed = 0;
let failed = 0;
export function check(what, good, detail = "") {
  if (good) passed += 1;
  else failed += 1;
  console.log(`${good ? "PASS" : "FAIL"} page: ${what}${detail === "" ? "" : ` (${detail})`}`);
}
export const score = () => ({ passed, failed });

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });

// A page of its own; `complaints` has every console error, CSP violation, uncaught error and request to elsewhere.
export async function open(browser, address, options = {}) {
  const context = await browser.newContext({ viewport: DESKTOP, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints = [];
  // While the gateway is away, or wants a token, the browser notes every request that fails.
  page.expectFailures = false;
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    if (page.expectFailures && message.text().startsWith("Failed to load resource")) return;
    complaints.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`uncaught: ${error.message}`));
  page.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== address && protocol !== "blob:") complaints.push(`request to ${request.url()}`);
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
  });
  page.complaints = async () => [...complaints, ...(await page.evaluate(() => window.violations))];
  return page;
}

// Whether `condition` comes true in the page, within the time one is ready to wait.
export async function soon(page, what, condition, argument) {
  // Asked from here: `waitForFunction` gives up at the first error, and a condition on what is not there yet is one.
  const until = Date.now() + PATIENCE_MS;
  let trouble = "";
  while (!(await page.evaluate(condition, argument).catch((error) => { trouble = error.message; return false; }))) {
    if (Date.now() > until) {
      const seen = await page.locator("#board, #login, #connection").allInnerTexts();
      check(what, false, [trouble, ...seen].join(" | ").slice(0, 600));
      return;
    }
    await page.waitForTimeout(50);
  }
  check(what, true);
}

// The text of a place, as one who looks sees it.
export const words = (page, place) => page.locator(place).innerText();
export const has = ([place, text]) => document.querySelector(place)?.innerText.includes(text) ?? false;

// Light and dark, desktop and phone: accessible, and as wide as the screen.
export async function inspect(page, state) {
  for (const colorScheme of ["light", "dark"]) {
    for (const [device, viewport] of [["desktop", DESKTOP], ["phone", PHONE]]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize(viewport);
      if (SHOTS) {
        mkdirSync(SHOTS, { recursive: true });
        await page.screenshot({ path: join(SHOTS, `${state.replaceAll(" ", "-")}-${device}-${colorScheme}.png`), fullPage: !state.includes("dialog") });
      }
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      const problems = await page.evaluate(`${AXE};axe.run(document, { runOnly: ${JSON.stringify(RULES)} }).then((result) => result.violations.map(
        (rule) => rule.id + " " + rule.nodes.length + " " + rule.nodes[0].html.slice(0, 160) + " " + rule.nodes[0].failureSummary.slice(0, 240)))`);
      check(`${state}, ${device}, ${colorScheme}: accessible, and no wider than the screen`, wide <= 0 && problems.length === 0, [...problems, ...(wide > 0 ? [`${wide} px too wide`] : [])].join("; "));
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize(DESKTOP);
}

// Tab until the focus is where it should be; the keyboard alone must get there.
export async function tabTo(page, name, most = 80) {
  for (let step = 0; step < most; step += 1) {
    const at = await page.evaluate(() => document.activeElement?.textContent?.trim() ?? "");
    if (at.startsWith(name)) return true;
    await page.keyboard.press("Tab");
  }
  check(`the keyboard gets to "${name}"`, false, await page.evaluate(() => document.activeElement?.outerHTML.slice(0, 200)));
  return false;
}
