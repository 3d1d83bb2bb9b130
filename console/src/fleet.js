// The fleet as the stream tells it: one stream a tab, resumed where it was lost, held while paused.

import { signal, computed } from "@preact/signals";
import { call, signedOut } from "./wire.js";
import { DEAD } from "./words.js";

const REMEMBERED = 1000; // events
const MOURNED = 60_000; // for how long who has died is still shown
const RETRY = [1000, 2000, 5000, 10000];

export const rows = new Map(); // by id; whoever reads them reads `version` too
export const version = signal(0);
export const events = signal([]); // the newest first
export const skipped = signal(0);
export const total = signal(null); // while the fleet is loading, how many there will be
export const loaded = signal(false);
export const known = signal(false); // more than a glimpse
export const lostAt = signal(null);
export const paused = signal(false);
export const held = signal(0); // changes that wait while paused
export const degraded = signal({});
export const now = signal(Date.now()); // by the manager's clock, a second apart

let ahead = 0; // of the manager's clock before ours
let last = "";
let tries = 0;
let source = null;
let coming = 0; // the next try
let waiting = null; // what became of whom while paused
const passed = new Map(); // who has died, until they are no longer shown

const instance = ([id, type, host, status, parent, created, services, labels, timeout]) => ({
  id, type, host, status, parent, created, services, labels, timeout,
  text: `${id} ${host} ${Object.entries(labels).flat().join(" ")}`.toLowerCase(),
});

const event = ([revision, ordinal, at, kind, id, type, host, related, cause, root]) => ({
  key: `${revision}.${ordinal}`, revision, ordinal, at, kind, id, type, host, related, cause, root,
});

export function start() {
  connect();
  setInterval(tick, 1000);
}

function connect() {
  source = new EventSource(`/live${last ? `?last=${encodeURIComponent(last)}` : ""}`);
  source.addEventListener("glimpse", (message) => take(message, glimpse));
  source.addEventListener("state", (message) => take(message, state));
  source.addEventListener("changes", (message) => take(message, changes));
  source.addEventListener("pulse", (message) => take(message, (data) => (degraded.value = data.degraded)));
  source.onerror = lost;
}

function lost() {
  source.close();
  if (lostAt.value === null) lostAt.value = Date.now();
  // a stream does not say why it was refused; a call does
  if (!signedOut.value) call("GetService/GetAllInstances", { page_size: 1 }).catch(() => {});
  coming = setTimeout(connect, RETRY[Math.min(tries, RETRY.length - 1)]);
  tries += 1;
}

// At once, and not at the next try.
export function again() {
  clearTimeout(coming);
  source.close();
  connect();
}

function take(message, apply) {
  const data = JSON.parse(message.data);
  ahead = data.now - Date.now();
  lostAt.value = null;
  tries = 0;
  if (message.lastEventId) last = message.lastEventId;
  apply(data);
}

// Something to see at once; what comes next replaces it.
function glimpse(data) {
  clear();
  for (const row of data.rows) rows.set(row[0], instance(row));
  tick();
  version.value += 1;
}

function clear() {
  rows.clear();
  passed.clear();
  waiting = null;
  held.value = 0;
  total.value = null;
  loaded.value = false;
  known.value = false;
}

// A state replaces what was there, also while paused: then nothing that waits is of any use.
function state(data) {
  if (data.first) clear();
  known.value = true;
  for (const row of data.rows) rows.set(row[0], instance(row));
  total.value = data.done ? null : data.total;
  loaded.value = loaded.value || data.done;
  tick();
  version.value += 1;
}

function changes(data) {
  if (paused.value) {
    hold(data);
  } else {
    apply(data);
    version.value += 1;
  }
}

// However long the pause: of each instance what became of it, and the last of the events.
function hold(data) {
  waiting ||= { became: new Map(), events: [], skipped: 0 };
  for (const row of data.rows) waiting.became.set(row[0], row);
  for (const id of data.gone) waiting.became.set(id, null);
  waiting.events.push(...data.events);
  const over = Math.max(0, waiting.events.length - REMEMBERED);
  waiting.events.splice(0, over);
  waiting.skipped += data.skipped + over;
  held.value = waiting.became.size;
}

function apply(data) {
  for (const row of data.rows) rows.set(row[0], instance(row));
  for (const id of data.gone) {
    const gone = rows.get(id);
    if (gone) {
      rows.set(id, { ...gone, status: DEAD });
      passed.set(id, Date.now());
    }
  }
  skipped.value += data.skipped;
  events.value = [...data.events.map(event).reverse(), ...events.value].slice(0, REMEMBERED);
}

export function pause(yes) {
  paused.value = yes;
  if (yes) return;
  if (waiting) {
    const { became, events: told, skipped: count } = waiting;
    apply({
      rows: [...became.values()].filter(Boolean),
      gone: [...became.keys()].filter((id) => !became.get(id)),
      events: told,
      skipped: count,
    });
  }
  waiting = null;
  held.value = 0;
  version.value += 1;
}

function tick() {
  now.value = Date.now() + ahead;
  if (paused.value) return;
  let buried = false;
  for (const [id, at] of passed) {
    if (Date.now() - at < MOURNED) break;
    passed.delete(id);
    rows.delete(id);
    buried = true;
  }
  if (buried) version.value += 1;
}

// How many there are, by type and state.
export const totals = computed(() => {
  version.value;
  const byType = new Map();
  const byState = [0, 0, 0, 0];
  for (const { type, status } of rows.values()) {
    if (!byType.has(type)) byType.set(type, [0, 0, 0, 0]);
    byType.get(type)[status] += 1;
    byState[status] += 1;
  }
  return { byType, byState };
});

// Who belongs to whom, as far as both are here.
export const children = computed(() => {
  version.value;
  return grouped(rows);
});

// The children of each that has any, of instances by id.
export function grouped(among) {
  const found = new Map();
  for (const each of among.values()) {
    if (!each.parent || !among.has(each.parent)) continue;
    const siblings = found.get(each.parent);
    if (siblings) siblings.push(each);
    else found.set(each.parent, [each]);
  }
  return found;
}

// An instance and all the living below it, from the top.
export function subtree(id) {
  const found = [];
  const coming = rows.has(id) ? [rows.get(id)] : [];
  while (coming.length) {
    const each = coming.pop();
    if (each.status === DEAD) continue;
    found.push(each);
    coming.push(...(children.value.get(each.id) || []));
  }
  return found;
}
