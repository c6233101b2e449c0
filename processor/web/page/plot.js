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

// lines: [{name, values, tone}], as long as `at` (Unix seconds), null where there is no value. scale: "zero", a line's area from 0;
// "decades", for values over decades; "spread", around whatever the values are. at_s: the time under the pointer, or null.
// frame: where the plot's time is not the last ten minutes: frameOf(at).
export function draw(svg, { at, lines, tick, scale: kind = "zero", at_s = null, frame = recent(at) }) {
  const width = Math.max(200, svg.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const x = (time) => LEFT + (1 - (frame.last - time) / frame.span) * (width - LEFT - RIGHT);
  const values = lines.flatMap((line) => line.values.filter((value) => value != null));
  const scale = { zero: fromZero, decades, spread }[kind](values);
  const y = (value) => TOP + (1 - scale.place(value)) * (HEIGHT - TOP - BOTTOM);
  const parts = [...grid(scale.ticks, y, tick, width), ...times(frame, width)];
  for (const line of lines) {
    const pieces = runs(at, line.values, frame.gap);
    if (kind === "zero") parts.push(drawn("path", { d: pieces.map((piece) => area(piece, x, y)).join(""), class: `area ${line.tone}` }));
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
export function timeAt(svg, at, clientX, frame = recent(at)) {
  const box = svg.getBoundingClientRect();
  return frame.last - frame.span * (1 - (clientX - box.left - LEFT) / (box.width - LEFT - RIGHT));
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

function times({ begin, end }, width) {
  return [
    drawn("text", { x: LEFT, y: HEIGHT - 5, class: "label" }, begin),
    drawn("text", { x: width - RIGHT, y: HEIGHT - 5, class: "label end" }, end),
  ];
}

// The last ten minutes up to the last sample.
function recent(at) {
  const last = at.at(-1) ?? 0;
  const span = Math.min(SPAN_MAX_S, Math.max(SPAN_MIN_S, last - (at[0] ?? 0)));
  const begin = span >= 120 ? `${Math.round(span / 60)} min ago` : `${Math.round(span)} s ago`;
  return { last, span, gap: GAP_S, begin, end: "now" };
}

// From the first time to the last. The line breaks where readings come ten times as rarely as usual.
export function frameOf(at, label) {
  const [first, last] = [Math.min(...at), Math.max(...at)];
  const steps = at.slice(1).map((time, i) => time - at[i]).sort((a, b) => a - b);
  const usual = steps[Math.floor(steps.length / 2)] ?? 0;
  return { last, span: Math.max(last - first, 1e-3), gap: Math.max(10 * usual, 1), begin: label(first), end: label(last) };
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

// Linear around all values, between round numbers.
function spread(values) {
  const [lowest, highest] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const width = Math.max(highest - lowest, Math.abs(highest) * 1e-6, 1e-9);
  const power = 10 ** Math.floor(Math.log10(width));
  const step = [0.2, 0.25, 0.5, 1, 2, 2.5, 5].map((s) => s * power).find((s) => width / s <= 4) ?? power * 5;
  const [bottom, top] = [Math.floor(lowest / step), Math.max(Math.ceil(highest / step), Math.floor(lowest / step) + 1)];
  const ticks = [];
  for (let i = bottom; i <= top; i += 1) ticks.push(i * step);
  return { ticks, place: (value) => (value / step - bottom) / (top - bottom) };
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
function runs(at, values, gap) {
  const found = [];
  let before = -Infinity;
  at.forEach((time, i) => {
    if (values[i] == null) return;
    if (time - before > gap) found.push([]);
    found.at(-1).push([time, values[i]]);
    before = time;
  });
  return found;
}

// One point alone is a dot: a line to itself, with round ends.
function path(points, x, y) {
  return (points.length > 1 ? points : [points[0], points[0]]).map(([time, value], i) => `${i ? "L" : "M"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`).join("");
}

function area(points, x, y) {
  const base = y(0).toFixed(1);
  return `${path(points, x, y)}L${x(points.at(-1)[0]).toFixed(1)} ${base}L${x(points[0][0]).toFixed(1)} ${base}Z`;
}
