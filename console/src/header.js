// What is at the top of every view: where one can go, how many there are, and whether what is shown is true.

import { html } from "htm/preact";
import { degraded, held, known, lostAt, now, paused, pause, totals } from "./fleet.js";
import { address, place } from "./route.js";
import { chosen, next } from "./theme.js";
import { DEAD, HEALTHY, MARKS, STALE, STATES, TYPES, age, plural } from "./words.js";

const MEANING = {
  database_away: "The database cannot be reached: nothing is answered, and nobody expires.",
  grace: "After an outage nobody expires who was alive when it began.",
  self_preservation: "Many are silent at once, and their deaths are held back.",
  stretched_intervals: "The fleet is large: all intervals are longer.",
  poll_only: "Changes are polled: what is shown may be a moment late.",
  standby_lost: "Changes are on no synchronous standby.",
  archive_failing: "Changes are not archived, and the database's disk fills up.",
  samples_dropped: "Samples of metrics were dropped.",
};

const search = (q) => address("/", { ...(place.value.path === "/" ? place.value.query : {}), q });

function Totals() {
  const { byType, byState } = totals.value;
  const all = byState[HEALTHY] + byState[STALE];
  if (!known.value) return html`<nav class="totals" aria-label="Totals, each a search"><span class="soft">counting…</span></nav>`;
  return html`<nav class="totals" aria-label="Totals, each a search">
    <a href=${search("")}><b>${all.toLocaleString("en")}</b> alive</a>
    ${[HEALTHY, STALE, DEAD].map((status) => html`<a class=${`state ${STATES[status]}`} href=${search(`state:${STATES[status]}`)}>
      <span aria-hidden="true">${MARKS[status]}</span> <b>${byState[status].toLocaleString("en")}</b> ${status === DEAD ? "just died" : STATES[status]}</a>`)}
    ${[...byType].filter(([, counts]) => counts[HEALTHY] + counts[STALE]).sort(([a], [b]) => (TYPES[a] < TYPES[b] ? -1 : 1)).map(([type, counts]) => html`
      <a key=${type} href=${search(`type:${TYPES[type].toLowerCase()}`)}><span class=${`type t${type}`}>${TYPES[type]}</span> <b>${(counts[HEALTHY] + counts[STALE]).toLocaleString("en")}</b></a>`)}
  </nav>`;
}

export function Strips() {
  const lost = lostAt.value;
  return html`<div class="strips" role="status">
    ${lost !== null && html`<p class="strip lost"><b>Connection lost.</b> What you see is of ${age((now.value, Date.now() - lost))} ago; trying again.</p>`}
    ${lost === null && Object.keys(degraded.value).map((state) => html`<p key=${state} class="strip"><b>${state.replaceAll("_", " ")}</b> ${MEANING[state] || ""} ${degraded.value[state]}</p>`)}
  </div>`;
}

export function Header({ help }) {
  const here = place.value.path;
  const link = (path, name) => html`<a href=${path} aria-current=${here === path ? "page" : undefined}>${name}</a>`;
  return html`<header>
    <div class="top">
      <a class="brand" href="/">Instance Manager</a>
      <nav aria-label="Views">${link("/", "Fleet")}${link("/events", "Events")}</nav>
      <span class="space"></span>
      <button type="button" aria-pressed=${paused.value} onClick=${() => pause(!paused.value)}>${paused.value ? `Resume${held.value ? ` (${plural(held.value, "change")})` : ""}` : "Pause"}</button>
      <button type="button" onClick=${() => (chosen.value = next[chosen.value])} aria-label=${`Theme: ${chosen.value}`}>${{ auto: "Auto", light: "Light", dark: "Dark" }[chosen.value]}</button>
      <button type="button" onClick=${help} aria-label="Keys and help">?</button>
    </div>
    <${Totals} />
  </header>`;
}
