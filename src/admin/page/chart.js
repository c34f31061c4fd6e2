// The last hour of a stream: backlog as an area, below it what came (solid) and went (dashed).
import { h, text, attribute } from "./dom.js";
import { count, rate, span } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 360;
const [BACKLOG, RATES] = [56, 36];

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function plot(height, classes) {
  const lines = classes.map((name) => svg("path", { class: name, "vector-effect": "non-scaling-stroke" }));
  const root = svg("svg", { viewBox: `0 -2 ${POINTS} ${height + 3}`, preserveAspectRatio: "none", class: "plot", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: POINTS, y1: height, y2: height, class: "base", "vector-effect": "non-scaling-stroke" }), ...lines);
  return { root, lines };
}

export function chart() {
  const backlog = plot(BACKLOG, ["area", "edge"]);
  const rates = plot(RATES, ["in", "out"]);
  const highest = h("span");
  const fastest = h("span");
  const start = h("span", {}, "1 hour ago");
  const root = h("div", { class: "chart", role: "img" },
    h("div", { class: "legend" }, h("span", { class: "key area" }, "backlog"), highest), backlog.root,
    h("div", { class: "legend" }, h("span", {}, h("span", { class: "key in" }, "in"), " ", h("span", { class: "key out" }, "out")), fastest), rates.root,
    h("div", { class: "legend axis" }, start, h("span", {}, "now")));
  return { root, backlog, rates, highest, fastest };
}

// A line through the figures; where nobody looked it is broken.
function path(values, top, height) {
  let pen = "M";
  return values.map((value, x) => {
    if (value == null) {
      pen = "M";
      return "";
    }
    const point = `${pen}${x} ${(height - (value / top) * height).toFixed(1)}`;
    pen = "L";
    return point;
  }).join("");
}

function area(values, top, height) {
  let shape = "";
  let from = null;
  const row = [...values, null];
  row.forEach((value, x) => {
    if (value != null && from == null) from = x;
    if (value == null && from != null) {
      shape += `M${from} ${height}${path(row.slice(from, x), top, height).replace(/[ML]([\d.]+) /g, (_, at) => `L${Number(at) + from} `)}L${x - 1} ${height}Z`;
      from = null;
    }
  });
  return shape;
}

// `past`: the lists of the history; `now`: the stream as it is.
export function draw(part, past, now) {
  const row = (name, last) => {
    const values = (past?.[name] ?? []).slice(-(POINTS - 1));
    return [...new Array(POINTS - 1 - values.length).fill(null), ...values, last];
  };
  const backlog = row("backlog", now.backlog.messages);
  const [came, went] = [row("in_per_s", now.rate_in_per_s), row("out_per_s", now.rate_out_per_s)];
  const most = Math.max(...backlog);
  const fastest = Math.max(...came, ...went);
  attribute(part.backlog.lines[0], "d", area(backlog, Math.max(most, 1), BACKLOG));
  attribute(part.backlog.lines[1], "d", path(backlog, Math.max(most, 1), BACKLOG));
  attribute(part.rates.lines[0], "d", path(came, Math.max(fastest, 0.1), RATES));
  attribute(part.rates.lines[1], "d", path(went, Math.max(fastest, 0.1), RATES));
  text(part.highest, `highest ${count(most)}`);
  text(part.fastest, `fastest ${rate(fastest)}`);
  const known = backlog.filter((value) => value != null).length * 10;
  attribute(part.root, "aria-label", `The last ${span(Math.min(known, 3600))}: backlog at most ${count(most)}, now ${count(now.backlog.messages)}; `
    + `fastest ${rate(fastest)}, now ${rate(now.rate_in_per_s)} in and ${rate(now.rate_out_per_s)} out`);
}
