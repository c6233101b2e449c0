// The parts of the page, each filled from its part of the status. What a figure means is said by the service: here it only gets a place.

import { byId, element, fillList, fillTable, icon, say } from "./dom.js";
import { amount, bytes, count, dateTime, decade, duration, minute, percent, perSecond, plural, short, time } from "./format.js";
import { draw, nearest, timeAt } from "./plot.js";

const PARTITIONS_SHOWN = 12;
const MESSAGES_SHOWN = 5;
const STAGES = {
  consume: "waits for readings",
  decode: "bytes to numbers",
  apply: "the model’s steps",
  encode: "numbers to bytes",
  publish: "into the transaction",
  commit: "the transaction",
  checkpoint: "copies of states",
  other: "bookkeeping, replays",
};

const view = { status: null, all: false, pointed_s: null };

export function show(status) {
  view.status = status;
  say(byId("who"), `${status.service.instance} in group ${status.service.group}`);
  for (const [name, verdict] of Object.entries(status.verdicts)) showVerdict(byId(`v-${name}`), verdict);
  showPlots();
  showMinutes(status.history);
  showPartitions();
  showTime(status.time);
  showSlots(status.slots);
  showState(status.state);
  showGroup(status);
  showDeadLetters(status);
  showMessages(status.messages);
  showModel(status.model);
  showService(status.service);
}

// What the visitor can do: look at a moment in the plots, ask for all partitions.
export function listen() {
  for (const { id } of PLOTS) {
    const svg = byId(id).querySelector("svg");
    svg.addEventListener("pointermove", (event) => point(timeAt(svg, view.status?.history.at ?? [], event.clientX)));
    svg.addEventListener("pointerleave", () => point(null));
  }
  new ResizeObserver(() => point(view.pointed_s)).observe(byId("p-rate"));
  byId("all").addEventListener("click", () => {
    view.all = !view.all;
    if (view.status) showPartitions();
  });
}

function showVerdict(card, { level, word, reason }) {
  const place = card.querySelector(".word");
  if (place.dataset.level !== level || place.textContent !== word) {
    place.dataset.level = level;
    place.replaceChildren(icon(level), element("span", {}, word));
  }
  card.className = `verdict ${level}`;
  say(card.querySelector(".reason"), reason);
}

// The plots.

const PLOTS = [
  {
    id: "p-rate",
    lines: (h) => [{ name: "", values: h.readings_per_second, tone: "first" }],
    now: (s) => [s.flow.readings_per_second],
    told: (value) => `${perSecond(value)} readings/s`,
    tick: short,
  },
  {
    id: "p-lag",
    lines: (h) => [{ name: "", values: h.lag_records, tone: "first" }],
    now: (s) => [s.flow.lag_records],
    told: (value) => (value == null ? "–" : plural(value, "record")),
    tick: short,
  },
  {
    id: "p-latency",
    lines: (h) => [
      { name: "p50", values: h.latency_p50_s, tone: "first" },
      { name: "p99", values: h.latency_p99_s, tone: "second" },
    ],
    now: (s) => [s.flow.latency_p50_s, s.flow.latency_p99_s],
    told: duration,
    tick: decade,
    scale: "decades",
  },
];

function point(at_s) {
  view.pointed_s = at_s;
  if (view.status) showPlots();
}

function showPlots() {
  const { history } = view.status;
  const shown = view.pointed_s == null ? -1 : nearest(history.at, view.pointed_s);
  for (const plot of PLOTS) {
    const figure = byId(plot.id);
    const lines = plot.lines(history);
    const values = shown < 0 ? plot.now(view.status) : lines.map((line) => line.values[shown]);
    showFigure(figure.querySelector(".figure"), plot, lines, values, shown < 0 ? "" : `at ${time(history.at[shown])}`);
    const svg = figure.querySelector("svg");
    draw(svg, { at: history.at, lines, tick: plot.tick, scale: plot.scale, at_s: view.pointed_s });
    svg.setAttribute("aria-label", inWords(figure.querySelector("h3").textContent, plot, lines, plot.now(view.status)));
  }
}

function showFigure(place, plot, lines, values, when) {
  const wanted = lines.map((line, i) => [line.tone, line.name, plot.told(values[i])]);
  const key = JSON.stringify([wanted, when]);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  const told = wanted.map(([tone, name, text]) =>
    element("span", { class: `value ${name ? tone : ""}` }, ...(name ? [element("span", { class: "name" }, `${name} `)] : []), text),
  );
  place.replaceChildren(...told, ...(when ? [element("span", { class: "small" }, when)] : []));
}

function inWords(title, plot, lines, now) {
  const told = lines.map((line, i) => {
    const values = line.values.filter((value) => value != null);
    const range = values.length ? `, lowest ${plot.told(Math.min(...values))}, highest ${plot.told(Math.max(...values))}` : "";
    return `${line.name} now ${plot.told(now[i])}${range}`.trim();
  });
  return `${title} over the last ten minutes: ${told.join("; ")}. The table below has the numbers.`;
}

function showMinutes(history) {
  const minutes = new Map();
  history.at.forEach((at, i) => {
    const key = Math.floor(at / 60) * 60;
    if (!minutes.has(key)) minutes.set(key, []);
    minutes.get(key).push(i);
  });
  const rows = [...minutes].reverse().map(([key, indices]) => ({ key, of: (name) => indices.map((i) => history[name][i]).filter((v) => v != null) }));
  const highest = (values) => (values.length ? Math.max(...values) : null);
  fillTable(byId("t-minutes").tBodies[0], rows, (row) => row.key, (row) => {
    const rates = row.of("readings_per_second");
    return [
      minute(row.key),
      perSecond(rates.length ? rates.reduce((sum, value) => sum + value, 0) / rates.length : null),
      amount(highest(row.of("lag_records"))),
      duration(highest(row.of("latency_p50_s"))),
      duration(highest(row.of("latency_p99_s"))),
    ];
  });
}

// Tables and lists.

function showPartitions() {
  const { partitions, state, restore } = view.status;
  const many = partitions.length > PARTITIONS_SHOWN;
  const late = (row) => row.checkpoint_age_s > state.late_s;
  const rows = many && !view.all ? worst(partitions, late).slice(0, PARTITIONS_SHOWN) : partitions;
  fillTable(byId("t-partitions").tBodies[0], rows, (row) => row.partition, (row) => [
    String(row.partition),
    { text: row.state, note: left(row), mark: row.state === "live" ? "" : "wait" },
    amount(row.lag_records),
    { text: duration(row.checkpoint_age_s), mark: late(row) ? "warn" : "" },
    amount(row.replay_records),
    count(row.committed),
  ]);
  const live = partitions.filter((row) => row.state === "live").length;
  const which = many && !view.all ? ` These ${PARTITIONS_SHOWN} are the worst.` : "";
  const rate = restore?.records_per_second ? ` Replaying ${perSecond(restore.records_per_second)} records/s.` : "";
  say(byId("n-partitions"), partitions.length ? `${live} of ${plural(partitions.length, "partition")} live.${rate}${which}` : "None is assigned to this instance.");
  byId("t-partitions").hidden = partitions.length === 0;
  const button = byId("all");
  button.hidden = !many;
  button.setAttribute("aria-expanded", String(view.all));
  say(button, view.all ? `Show ${PARTITIONS_SHOWN}` : `Show all ${partitions.length}`);
}

function left(row) {
  return row.restore_records_left == null ? "" : `${amount(row.restore_records_left)} left`;
}

// Those that are not live first, then by lag, then by number. A lag counts by its power of two, so that rows do not change places over
// a few records, and a late checkpoint as an eightfold lag.
function worst(partitions, late) {
  const badness = (row) => Math.round(Math.log2(1 + (row.lag_records ?? 0))) + (late(row) ? 3 : 0);
  const rank = (row) => [row.state === "live" ? 1 : 0, -badness(row), row.partition];
  return [...partitions].sort((a, b) => {
    const [one, other] = [rank(a), rank(b)];
    const i = one.findIndex((value, j) => value !== other[j]);
    return i < 0 ? 0 : one[i] - other[i];
  });
}

function showTime({ over_s, stages }) {
  say(byId("n-time"), over_s > 0 ? `Of the loop’s time in the last ${over_s > 55 ? "minute" : duration(over_s)}.` : "");
  fillTable(byId("t-time").tBodies[0], stages, (row) => row.stage, (row) => [
    { text: row.stage, note: STAGES[row.stage] ?? "" },
    { text: percent(row.ratio), share: row.ratio ?? 0 },
    duration(row.mean_s),
    duration(row.p99_s),
  ]);
}

function showSlots(slots) {
  fillList(byId("d-slots"), [
    ["Slots used", slots.slots ? `${count(slots.used)} of ${count(slots.slots)}` : "–"],
    ["Sensors parked", count(slots.parked), slots.thrash ? "sensors keep changing places: raise `slots`" : ""],
    ["Parked to make room", `${perSecond(slots.evictions_per_second)} a second`],
    ["Sensors expired", count(slots.expired), "since the start"],
    ["Batch", slots.batch_readings_mean == null ? "–" : `${perSecond(slots.batch_readings_mean)} readings`, "mean"],
    ["Tiles filled", percent(slots.tile_fill_ratio_mean), "mean"],
  ]);
}

function showState(state) {
  fillList(byId("d-state"), [
    ["Oldest", duration(state.oldest_s), `due every ${duration(state.interval_s)}`],
    ["A restart replays", state.replay_records == null ? "–" : plural(state.replay_records, "record")],
    ["Written", count(state.written), "since the start"],
    ["Time to write one", duration(state.write_mean_s), "mean"],
    ["Size of the last", bytes(state.last_bytes)],
  ]);
}

function showGroup({ transactions, rebalances, gaps }) {
  const lost = Object.values(gaps).reduce((sum, value) => sum + value, 0);
  fillList(byId("d-group"), [
    ["Committed", count(transactions.committed), "since the start"],
    ["Aborted", count(transactions.aborted)],
    ["Fenced", count(transactions.fenced)],
    ["Rebalances", `${count(rebalances.assigned)} assigned, ${count(rebalances.revoked)} revoked`],
    ["Partitions lost", count(rebalances.lost)],
    ["Gaps in the log", count(lost)],
  ]);
}

function showDeadLetters({ dead_letters, service }) {
  const met = dead_letters.filter((row) => row.total > 0);
  const total = met.reduce((sum, row) => sum + row.total, 0);
  say(byId("n-dead"), total ? `${plural(total, "record")} to ${service.dead_letters}.` : "None since the start: every record could be used.");
  byId("t-dead").hidden = met.length === 0;
  fillTable(byId("t-dead").tBodies[0], met, (row) => row.reason, (row) => [row.reason, count(row.recent), count(row.total)]);
}

function showMessages(messages) {
  say(byId("n-messages"), messages.length ? "Newest first." : "None since the start.");
  fillMessages(byId("l-messages"), messages.slice(0, MESSAGES_SHOWN));
  const earlier = messages.slice(MESSAGES_SHOWN);
  byId("earlier").hidden = earlier.length === 0;
  say(byId("earlier").querySelector("summary"), `${count(earlier.length)} earlier`);
  fillMessages(byId("l-earlier"), earlier);
}

function fillMessages(list, messages) {
  const key = JSON.stringify(messages.map(({ timestamp, event, times }) => [timestamp, event, times]));
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...messages.map(message));
}

function message({ timestamp, level, event, times, logger, ...figures }) {
  const shape = level === "warning" ? "warn" : "bad";
  const head = element(
    "p",
    { class: "head" },
    element("span", { class: `level ${shape}` }, icon(shape), level),
    element("time", { datetime: timestamp }, dateTime(Date.parse(timestamp) / 1000)),
    ...(times > 1 ? [element("span", { class: "small" }, `${count(times)} times`)] : []),
    ...(logger ? [element("span", { class: "small" }, logger)] : []),
  );
  const told = Object.entries(figures).map(([name, value]) =>
    element("div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, typeof value === "string" ? value : JSON.stringify(value))),
  );
  return element("li", {}, head, element("p", { class: "event" }, event), ...(told.length ? [element("dl", {}, ...told)] : []));
}

function showModel(model) {
  fillList(byId("d-model"), [
    ["File", model.file],
    ["Fingerprint", model.fingerprint ?? "–"],
    ["Mode", model.mode ?? "–"],
    ["Features", count(model.features)],
    ["Outputs", count(model.outputs)],
    ["Window", model.mode ? (model.window ? plural(model.window, "step") : "none: the state is carried on") : "–"],
    ["State", bytes(model.state_bytes), "a sensor"],
  ]);
  say(byId("n-model"), model.why ? `It is ${model.why}.` : "");
}

function showService(service) {
  fillList(byId("d-service"), [
    ["Instance", service.instance],
    ["Group", service.group],
    ["Version", service.version],
    ["Up for", duration(service.uptime_s), `since ${dateTime(service.started_at)}`],
    ["Reads", service.input],
    ["Writes", service.output],
    ["Checkpoints in", service.checkpoints],
    ["Delivery", service.delivery.replaceAll("_", " "), `a commit every ${duration(service.commit_interval_s)}`],
  ]);
}
