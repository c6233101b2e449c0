// A small plot of lines over time, as SVG. Knows nothing of what the numbers are.

import { drawn } from "./dom.js";

const HEIGHT = 150;
const LEFT = 54;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 22;
const SPAN_MIN_S = 60;
const SPAN_MAX_S = 600;
const GAP_S = 7; // a sample is due every 2 s: the line breaks where some are missing

// lines: [{name, values, tone}], as long as `at` (Unix seconds), null where there is no value. logarithmic: for values over decades.
// at_s: the time under the pointer, or null.
export function draw(svg, { at, lines, tick, logarithmic = false, at_s = null }) {
  const width = Math.max(200, svg.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const last = at.at(-1) ?? 0;
  const span = Math.min(SPAN_MAX_S, Math.max(SPAN_MIN_S, last - (at[0] ?? 0)));
  const x = (time) => LEFT + (1 - (last - time) / span) * (width - LEFT - RIGHT);
  const values = lines.flatMap((line) => line.values.filter((value) => value != null));
  const scale = logarithmic ? decades(values) : fromZero(values);
  const y = (value) => TOP + (1 - scale.place(value)) * (HEIGHT - TOP - BOTTOM);
  const parts = [...grid(scale.ticks, y, tick, width), ...times(span, width)];
  for (const line of lines) {
    const pieces = runs(at, line.values);
    if (!logarithmic) parts.push(drawn("path", { d: pieces.map((piece) => area(piece, x, y)).join(""), class: `area ${line.tone}` }));
    parts.push(drawn("path", { d: pieces.map((piece) => path(piece, x, y)).join(""), class: `line ${line.tone}` }));
  }
  const shown = at_s == null ? -1 : nearest(at, at_s);
  if (shown >= 0) {
    const where = x(at[shown]);
    parts.push(drawn("line", { x1: where, x2: where, y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" }));
    for (const line of lines) {
      if (line.values[shown] != null) parts.push(drawn("circle", { cx: where, cy: y(line.values[shown]), r: 3.5, class: `dot ${line.tone}` }));
    }
  }
  svg.replaceChildren(...parts);
}

// The time at a place in the plot, for draw()'s at_s.
export function timeAt(svg, at, clientX) {
  const box = svg.getBoundingClientRect();
  const last = at.at(-1) ?? 0;
  const span = Math.min(SPAN_MAX_S, Math.max(SPAN_MIN_S, last - (at[0] ?? 0)));
  return last - span * (1 - (clientX - box.left - LEFT) / (box.width - LEFT - RIGHT));
}

export function nearest(at, time) {
  let best = -1;
  at.forEach((one, i) => {
    if (best < 0 || Math.abs(one - time) < Math.abs(at[best] - time)) best = i;
  });
  return best;
}

function grid(ticks, y, tick, width) {
  return ticks.flatMap((value) => [
    drawn("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
    drawn("text", { x: LEFT - 7, y: y(value) + 4, class: "label end" }, tick(value)),
  ]);
}

function times(span, width) {
  const ago = span >= 120 ? `${Math.round(span / 60)} min ago` : `${Math.round(span)} s ago`;
  return [
    drawn("text", { x: LEFT, y: HEIGHT - 5, class: "label" }, ago),
    drawn("text", { x: width - RIGHT, y: HEIGHT - 5, class: "label end" }, "now"),
  ];
}

// Linear from 0, with a round number at the top.
function fromZero(values) {
  const highest = Math.max(1, ...values);
  const power = 10 ** Math.floor(Math.log10(highest));
  const step = [0.5, 1, 2, 2.5, 5].map((s) => s * power).find((s) => highest / s <= 4 && s >= 1) ?? power * 5;
  const top = Math.ceil(highest / step) * step;
  const ticks = [];
  for (let value = 0; value <= top + step / 2; value += step) ticks.push(value);
  return { ticks, place: (value) => value / top };
}

// Whole decades around all values; at least one.
function decades(values) {
  const above = values.filter((value) => value > 0);
  const low = above.length ? Math.floor(Math.log10(Math.min(...above)) + 1e-9) : -2;
  const high = Math.max(low + 1, above.length ? Math.ceil(Math.log10(Math.max(...above)) - 1e-9) : 0);
  const ticks = [];
  for (let power = low; power <= high; power += 1) ticks.push(10 ** power);
  return { ticks, place: (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low) };
}

// The unbroken stretches: [[time, value], ...] each.
function runs(at, values) {
  const found = [];
  let before = -Infinity;
  at.forEach((time, i) => {
    if (values[i] == null) return;
    if (time - before > GAP_S) found.push([]);
    found.at(-1).push([time, values[i]]);
    before = time;
  });
  return found;
}

function path(points, x, y) {
  return points.map(([time, value], i) => `${i ? "L" : "M"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`).join("");
}

function area(points, x, y) {
  const base = y(0).toFixed(1);
  return `${path(points, x, y)}L${x(points.at(-1)[0]).toFixed(1)} ${base}L${x(points[0][0]).toFixed(1)} ${base}Z`;
}
