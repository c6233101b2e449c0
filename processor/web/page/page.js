// The status page: asks /status.json again and again, and shows what it says. Changes nothing in the service.
//
// While nothing answers, what was last known stays, marked as such. A page that nobody sees does not ask.

import { byId, say } from "./dom.js";
import { time } from "./format.js";
import * as parts from "./parts.js";
import * as sensors from "./sensors.js";

const TIMEOUT_MS = 5000;

const seen = {
  status: null, // the last answer
  version: null, // of the service that this page came from
  goneSince: null, // when it was first found not to answer, Unix seconds
  spoken: null, // what a screen reader was told last
  timer: null,
  asking: false,
};

async function refresh() {
  clearTimeout(seen.timer);
  if (document.hidden || paused() || seen.asking) return;
  seen.asking = true;
  const status = await ask();
  seen.asking = false;
  seen.timer = setTimeout(refresh, 1000 * (seen.status?.refresh_s ?? 2));
  if (status) answered(status);
  else gone();
}

async function ask() {
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

function answered(status) {
  seen.version ??= status.service.version;
  if (seen.version !== status.service.version) {
    location.reload(); // it was replaced by another version, whose page this is not
    return;
  }
  seen.status = status;
  seen.goneSince = null;
  document.body.classList.remove("stale");
  byId("gone").hidden = true;
  say(byId("updated"), `at ${time(status.at)} UTC`);
  const { ready } = status.verdicts;
  document.title = `${ready.word} · ${status.service.instance} · slotstream`;
  announce(ready.word, `${ready.word}. ${ready.reason}`);
  parts.show(status);
  sensors.refresh(status);
}

function gone() {
  if (seen.goneSince != null) return;
  seen.goneSince = Date.now() / 1000;
  const since = `Not answering since ${time(seen.goneSince)} UTC.`;
  document.body.classList.add("stale");
  document.title = "Not answering · slotstream";
  say(byId("gone"), seen.status ? `${since} What follows is what it said at ${time(seen.status.at)} UTC.` : since);
  byId("gone").hidden = false;
  seen.spoken = "gone"; // the alert speaks for itself, and what comes after it is news, be it the same as before
  say(byId("announce"), "");
}

// Only when the word is another one: figures that change every two seconds are no news.
function announce(word, sentence) {
  if (seen.spoken === word) return;
  seen.spoken = word;
  say(byId("announce"), sentence);
}

function paused() {
  return byId("pause").getAttribute("aria-pressed") === "true";
}

byId("pause").addEventListener("click", () => {
  const now = !paused();
  byId("pause").setAttribute("aria-pressed", String(now));
  say(byId("pause"), now ? "Paused: go on" : "Pause");
  document.body.classList.toggle("paused", now);
  refresh();
});
document.addEventListener("visibilitychange", refresh);
parts.listen();
sensors.listen();
refresh();
