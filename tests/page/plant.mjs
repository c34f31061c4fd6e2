// The plant as the story sees it: `await plant.publish("topic", "payload")` is one order to plant.py.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export function startPlant() {
  const child = spawn("/usr/bin/python3", [fileURLToPath(new URL("plant.py", import.meta.url))], { stdio: ["pipe", "pipe", "inherit"] });
  const waiting = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    const { ok, error } = JSON.parse(line);
    const { resolve, reject } = waiting.shift();
    if (error) reject(new Error(error));
    else resolve(ok);
  });
  child.on("exit", () => waiting.splice(0).forEach(({ reject }) => reject(new Error("the plant has ended"))));
  const order = (...words) => new Promise((resolve, reject) => {
    waiting.push({ resolve, reject });
    child.stdin.write(`${JSON.stringify(words)}\n`);
  });
  return new Proxy({}, { get: (_, name) => (name === "close" ? () => child.stdin.end() : (...words) => order(name, ...words)) });
}
