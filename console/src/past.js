// The fleet as it was at a moment, and the slider that chooses it. The moment is in the address, as `at`.

import { html } from "htm/preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { grouped, now } from "./fleet.js";
import { refine } from "./route.js";
import { call, told } from "./wire.js";
import { SERVICES, TYPES, age, clock, plural } from "./words.js";

const PAGE = 10_000;
const SETTLED = 150; // a slider that is moved asks for nothing until it rests so long
const STEPS = 1000;
const STATUSES = ["", "STATUS_HEALTHY", "STATUS_STALE", "STATUS_DEAD"];

// Milliseconds, or null for now, which is also what is no time.
export function moment(text) {
  const found = Date.parse(text || "");
  return Number.isNaN(found) ? null : found;
}

const instance = (each) => {
  const labels = each.labels || {};
  return {
    id: each.instance_id,
    type: TYPES.indexOf(each.instance_type),
    host: each.hostname || "",
    status: STATUSES.indexOf(each.status),
    parent: each.parent_id || "",
    created: Number(each.created_at_ms),
    services: (each.services || []).map(({ service_type, host, port }) => [SERVICES.indexOf(service_type), host, port]),
    labels,
    timeout: Number(each.timeout_ms),
    text: `${each.instance_id} ${each.hostname || ""} ${Object.entries(labels).flat().join(" ")}`.toLowerCase(),
  };
};

async function read(at, signal) {
  const rows = new Map();
  let token = "", revision = 0;
  do {
    const request = { time_ms: String(at), page_size: PAGE, page_token: token };
    const page = await call("FleetService/GetInstancesAt", request, signal);
    for (const each of page.instances || []) rows.set(each.instance_id, instance(each));
    token = page.next_page_token || "";
    revision = page.revision || 0;
  } while (token);
  return { at, rows, children: grouped(rows), revision, problem: "" };
}

// The fleet at that moment, once it is here: until then the one that was asked for before, and null to begin with.
export function usePast(at) {
  const [found, show] = useState(null);
  useEffect(() => {
    if (at === null) return show(null);
    const end = new AbortController();
    read(at, end.signal).then(show, (error) => {
      if (error.name !== "AbortError") show({ at, rows: new Map(), children: new Map(), revision: 0, problem: error.message });
    });
    return () => end.abort();
  }, [at]);
  return at === null ? null : found;
}

// The slider is fine where much happens, which is lately, and coarse long ago.
const reach = () => told.past_kept * 1000;
const placeOf = (ago) => STEPS * (1 - Math.cbrt(Math.min(1, Math.max(0, ago / reach()))));
const agoOf = (place) => reach() * ((STEPS - place) / STEPS) ** 3;

const two = (value) => String(value).padStart(2, "0");

// As an input of that type has it: local, to the second.
function local(at) {
  const day = new Date(at);
  const date = `${day.getFullYear()}-${two(day.getMonth() + 1)}-${two(day.getDate())}`;
  return `${date}T${two(day.getHours())}:${two(day.getMinutes())}:${two(day.getSeconds())}`;
}

export function Times({ at }) {
  const [moved, move] = useState(null); // where the slider is while it is moved
  const resting = useRef(0);
  const shown = moved === null ? at : moved;
  const choose = (milliseconds) => refine({ at: milliseconds === null ? "" : new Date(milliseconds).toISOString() });

  function slide(event) {
    const place = Number(event.target.value);
    const to = place >= STEPS ? null : Math.round((now.peek() - agoOf(place)) / 1000) * 1000;
    move(to === null ? now.peek() : to);
    clearTimeout(resting.current);
    resting.current = setTimeout(() => (choose(to), move(null)), SETTLED);
  }
  useEffect(() => () => clearTimeout(resting.current), []);

  const ago = shown === null ? 0 : now.value - shown;
  return html`<div class="times" role="group" aria-label="When">
    <button type="button" aria-pressed=${at === null} onClick=${() => choose(null)}>Now</button>
    <input type="range" min="0" max=${STEPS} step="1" value=${Math.round(placeOf(ago))} aria-label="How long ago"
      aria-valuetext=${shown === null ? "now" : `${age(ago)} ago, ${clock(shown)}`} onInput=${slide} />
    <input type="datetime-local" step="1" aria-label="The moment" value=${shown === null ? "" : local(shown)}
      max=${local(now.value)} onChange=${(event) => choose(moment(event.target.value))} />
  </div>`;
}

// What is shown is not what is: said above it, for as long as it is so.
export function AsOf({ at, found }) {
  if (at === null) return null;
  const here = found && found.at === at;
  if (here && found.problem) return html`<p class="problem" role="alert">${found.problem}</p>`;
  return html`<p class="strip past" role="status" aria-busy=${!here}><b>As it was at ${clock(at)}</b>${here
    ? `: ${plural(found.rows.size, "instance")}, after change ${Number(found.revision).toLocaleString("en")}.`
    : " …"}</p>`;
}
