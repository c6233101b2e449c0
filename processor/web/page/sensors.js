// Single sensors: a list, a search, and one sensor's last readings against its predictions. Which one is chosen stands in the address.
//
// Asks /sensors and below, together with the status. What a sensor's numbers mean is said by the service.

import { byId, element, fillList, fillTable, say } from "./dom.js";
import { count, dateTime, moment, percent, plural, time, value } from "./format.js";
import { draw, frameOf, nearest, timeAt } from "./plot.js";

const TIMEOUT_MS = 5000;
const LIST_EVERY = 3; // refreshes: a list of all sensors is work for the service
const SENSORS_SHOWN = 10;
const READINGS_SHOWN = 20;

const seen = {
  on: false,
  turns: 0,
  find: null, // the part of a name that is looked for; null: the service's own list
  chosen: null, // {name, partition}: as they stand in the address
  sensor: null, // the last answer about it
  readings: null, // its last readings, by column
  feature: null, // the number of the feature that is shown; null: the one that is furthest off
  pointed_s: null,
  asking: false,
};

export function refresh(status) {
  if (!status.service.sensors) return;
  if (!seen.on) {
    seen.on = true;
    byId("sensors").hidden = false;
    choose();
  }
  if (seen.find == null && seen.turns % LIST_EVERY === 0) list();
  seen.turns += 1;
  if (seen.chosen) look();
}

export function listen() {
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    find(byId("name").value);
  });
  byId("all-sensors").addEventListener("click", () => {
    byId("name").value = "";
    seen.find = null;
    list();
  });
  byId("feature").addEventListener("change", () => {
    seen.feature = Number(byId("feature").value);
    show();
  });
  addEventListener("hashchange", () => {
    choose();
    if (seen.chosen) byId("h-sensor").focus(); // on a phone it lies below the list
  });
  for (const id of ["p-reading", "p-residual"]) {
    const svg = byId(id).querySelector("svg");
    svg.addEventListener("pointermove", (event) => point(timeAt(svg, seconds(), event.clientX, frame())));
    svg.addEventListener("pointerleave", () => point(null));
  }
  new ResizeObserver(show).observe(byId("p-reading"));
}

async function ask(path) {
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    return { status: answer.status, body: await answer.json() };
  } catch {
    return { status: 0, body: { found: "the service does not answer" } };
  }
}

// The list.

async function list() {
  const { status, body } = await ask(seen.find == null ? "sensors" : `sensors?find=${encodeURIComponent(seen.find)}`);
  if (status !== 200) {
    say(byId("n-list"), sentence(body));
    return null;
  }
  const words = { residual: "The highest residuals of the last minute.", time: "Sensors that reported lately.", name: `Names with “${seen.find}” among sensors that reported lately.` };
  say(byId("n-list"), body.sensors.length ? words[body.by] : body.by === "name" ? `No sensor that reported lately has “${seen.find}” in its name.` : "No sensor has reported lately.");
  byId("t-sensors").hidden = body.sensors.length === 0;
  byId("all-sensors").hidden = seen.find == null;
  fillTable(byId("t-sensors").tBodies[0], body.sensors.slice(0, SENSORS_SHOWN), (row) => `${row.partition} ${row.path}`, (row) => [
    { text: row.sensor || "(the empty name)", href: hash(row.path.slice("sensors/".length), row.partition) },
    value(row.residual),
    time(row.timestamp / 1000),
  ]);
  markChosen();
  return body.sensors;
}

// A name that only one sensor has leads to it, and so does one that has not reported lately: the service knows it all the same.
async function find(text) {
  seen.find = text || null;
  const found = await list();
  if (!text || !found) return;
  const same = found.filter((row) => row.sensor === text);
  if (same.length === 1) location.hash = hash(same[0].path.slice("sensors/".length), same[0].partition);
  else if (!found.length) location.hash = hash(encoded(text), null);
}

function encoded(text) {
  return /^\.\.?$/.test(text) ? `0x${"2e".repeat(text.length)}` : encodeURIComponent(text);
}

function hash(name, partition) {
  return partition == null ? `#sensor=${name}` : `#sensor=${name}&partition=${partition}`;
}

function markChosen() {
  const wanted = seen.chosen && hash(seen.chosen.name, seen.chosen.partition);
  for (const link of byId("t-sensors").querySelectorAll("a")) {
    if (link.getAttribute("href") === wanted) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

// One sensor.

function choose() {
  const [, name, partition] = /^#sensor=([\w.~%!'()*-]*)(?:&partition=(\d+))?$/.exec(location.hash) ?? [];
  Object.assign(seen, { chosen: name == null ? null : { name, partition: partition ?? null }, sensor: null, readings: null, feature: null });
  byId("of-sensor").hidden = true;
  say(byId("h-sensor"), name == null ? "No sensor chosen" : title());
  say(byId("n-sensor"), name == null ? "Choose one from the list, or find it by its name." : "Asking for it.");
  markChosen();
  if (seen.chosen) look();
}

function title() {
  try {
    return decodeURIComponent(seen.chosen.name) || "(the empty name)";
  } catch {
    return seen.chosen.name;
  }
}

async function look() {
  if (seen.asking) return;
  seen.asking = true;
  const { chosen } = seen;
  const path = `sensors/${chosen.name}`;
  const partition = seen.sensor?.partition ?? chosen.partition;
  const query = partition == null ? [] : [`partition=${partition}`];
  const after = seen.readings?.offset.length ? [`after=${seen.readings.offset.at(-1)}`] : [];
  const [sensor, readings] = [await ask(`${path}?${query.join("&")}`), await ask(`${path}/readings?${[...query, ...after].join("&")}`)];
  seen.asking = false;
  if (seen.chosen !== chosen) {
    if (seen.chosen) look();
    return;
  }
  const wrong = [sensor, readings].find((one) => one.status !== 200);
  if (wrong) {
    if (wrong.status === 404) byId("of-sensor").hidden = true;
    say(byId("n-sensor"), sentence(wrong.body));
    return;
  }
  seen.sensor = sensor.body;
  keep(readings.body);
  show();
}

const COLUMNS = ["offset", "timestamp", "steps", "residual", "warming_up", "reading", "prediction"];

function keep(more) {
  const before = seen.readings ?? Object.fromEntries(COLUMNS.map((name) => [name, []]));
  const columns = COLUMNS.map((name) => [name, [...before[name], ...more[name]].slice(-more.readings_max)]);
  const first = seen.readings == null;
  seen.readings = { ...more, ...Object.fromEntries(columns) };
  if (first) offerFeatures();
}

// A model that forecasts is looked at feature by feature, and any other by its outputs beside its features.
function offerFeatures() {
  const { features, forecasts } = seen.readings;
  const names = features.map((name, i) => ({ name: titled(name), i })).filter(({ i }) => !forecasts.length || forecasts.some(([feature]) => feature === i));
  byId("feature").replaceChildren(...names.map(({ name, i }) => element("option", { value: i }, name)));
  byId("feature").closest("label").hidden = names.length < 2;
  seen.feature = furthestOff() ?? names[0]?.i ?? 0;
  byId("feature").value = String(seen.feature);
}

// Without names, features are numbers.
function titled(name) {
  return /^\d+$/.test(name) ? `value ${name}` : name;
}

function furthestOff() {
  const off = seen.readings.forecasts.map(([feature]) => {
    const [readings, forecasts] = [column("reading", feature), forecastOf(feature)];
    const gaps = readings.map((one, i) => Math.abs(one - forecasts[i])).filter((gap, i) => forecasts[i] != null);
    const usual = Math.max(...readings) - Math.min(...readings) || 1;
    return { feature, gap: Math.max(0, ...gaps.slice(-20)) / usual };
  });
  return off.sort((a, b) => b.gap - a.gap)[0]?.feature;
}

function column(name, i) {
  return seen.readings[name].map((row) => row?.[i] ?? null);
}

// What the prediction before said of each reading: null after a reset, and where a record held several steps.
function forecastOf(feature) {
  const { forecasts, steps } = seen.readings;
  const output = forecasts.find(([of]) => of === feature)?.[1];
  if (output == null) return null;
  const predictions = column("prediction", output);
  return steps.map((step, i) => (i && step === steps[i - 1] + 1 ? predictions[i - 1] : null));
}

function seconds() {
  return (seen.readings?.timestamp ?? []).map((ms) => ms / 1000);
}

function frame() {
  const at = seconds();
  const short = at.length > 1 && at.at(-1) - at[0] < 10;
  const long = at.length > 1 && at.at(-1) - at[0] > 86_000;
  return frameOf(at, long ? dateTime : short ? moment : time);
}

function point(at_s) {
  seen.pointed_s = at_s;
  show();
}

function show() {
  if (!seen.sensor || !seen.readings) return;
  byId("of-sensor").hidden = false;
  const { sensor } = seen;
  say(byId("h-sensor"), sensor.sensor || "(the empty name)");
  const others = sensor.also_in_partitions.length ? ` It also has a state in partition ${sensor.also_in_partitions.join(", ")}: its records are in several partitions.` : "";
  say(byId("n-sensor"), `On instance ${sensor.instance}, in partition ${sensor.partition}, ${sensor.parked ? "parked" : `in slot ${count(sensor.slot)}`}.${others}`);
  showPlots();
  fillList(byId("d-sensor"), [
    ["Last reading", dateTime(sensor.timestamp / 1000), `offset ${count(sensor.offset)}`],
    ["Steps", count(sensor.steps), sensor.incomplete ? "since its last reset, and some before them were lost" : "since its last reset"],
    ["Residual", value(sensor.last?.residual), sensor.last?.warming_up ? "warming up" : ""],
    ["As of", `offset ${count(sensor.committed)}`, "the last commit"],
  ]);
  fillTable(byId("t-layers").tBodies[0], sensor.state, (row) => `${row.layer} ${row.state}`, (row) => [
    { text: row.layer, note: row.type },
    row.state,
    count(row.width),
    value(row.norm),
    { text: percent(row.saturated_ratio), mark: row.saturated_ratio > 0.5 ? "warn" : "" },
  ]);
}

function showPlots() {
  const { readings, feature } = seen;
  const at = seconds();
  const forecast = forecastOf(feature);
  const reading = { name: "reading", values: column("reading", feature), tone: "first" };
  const second = forecast
    ? { name: "forecast", values: forecast, tone: "second" }
    : { name: readings.outputs[0], values: column("prediction", 0), tone: "second" };
  const residual = { name: "", values: readings.residual, tone: "first" };
  const name = titled(readings.features[feature]);
  if (forecast) {
    plot("p-reading", name, [reading, second], at, "spread");
    plot("p-residual", "Residual, of all features", [residual], at, "zero");
  } else {
    plot("p-reading", name, [{ ...reading, name: "" }], at, "spread");
    plot("p-residual", `Prediction ${second.name}`, [{ ...second, name: "" }], at, "spread");
  }
  say(byId("h-second"), forecast ? "Forecast" : "Prediction");
  const newest = at.map((_, i) => i).slice(-READINGS_SHOWN).reverse();
  fillTable(byId("t-readings").tBodies[0], newest, (i) => readings.offset[i], (i) => [
    time(at[i]),
    count(readings.steps[i]),
    value(reading.values[i]),
    value(second.values[i]),
    value(readings.residual[i]),
  ]);
}

function plot(id, heading, lines, at, scale) {
  const figure = byId(id);
  const svg = figure.querySelector("svg");
  const shown = at.length ? (seen.pointed_s == null ? at.length - 1 : nearest(at, seen.pointed_s)) : -1;
  say(figure.querySelector("h4"), heading);
  const told = lines.map((line) => `${line.name} ${value(line.values[shown])}`.trim());
  const spans = lines.map((line, i) => element("span", { class: `value ${lines.length > 1 ? line.tone : ""}` }, told[i]));
  const when = seen.pointed_s != null && shown >= 0 ? [element("span", { class: "small" }, `at ${time(at[shown])}`)] : [];
  figure.querySelector(".figure").replaceChildren(...spans, ...when);
  if (at.length) draw(svg, { at, lines, tick: value, scale, at_s: seen.pointed_s, frame: frame() });
  else svg.replaceChildren();
  svg.setAttribute("aria-label", inWords(heading, lines, at));
}

function inWords(heading, lines, at) {
  if (!at.length) return `${heading}: no readings in memory yet`;
  const told = lines.map((line) => {
    const values = line.values.filter((one) => one != null);
    return `${line.name} now ${value(line.values.at(-1))}, lowest ${value(values.length ? Math.min(...values) : null)}, highest ${value(values.length ? Math.max(...values) : null)}`.trim();
  });
  return `${heading} over the last ${plural(at.length, "reading")}: ${told.join("; ")}. The table below has the numbers.`;
}

function sentence({ found, instances }) {
  const others = (instances ?? []).map((one) => `${one.instance} (${one.host}, partition ${one.partitions.join(", ")})`);
  const text = found.charAt(0).toUpperCase() + found.slice(1);
  return others.length ? `${text}. Ask ${others.join(" or ")}.` : `${text}.`;
}
