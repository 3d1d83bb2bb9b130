// The fleet, as a tree or as a table.

import { html } from "htm/preact";
import { signal } from "@preact/signals";
import { useMemo, useRef } from "preact/hooks";
import { Empty } from "./empty.js";
import { children, loaded, now, rows, total, version } from "./fleet.js";
import { Grid, useNarrow } from "./grid.js";
import { aimed } from "./kill.js";
import { COLUMNS, table, tree } from "./lines.js";
import { Link, State, Type } from "./parts.js";
import { AsOf, Times, moment, usePast } from "./past.js";
import { go, place, refine } from "./route.js";
import { KEY_NAMES, understand } from "./search.js";
import { HEALTHY, MANAGER, SERVICES, STATES, age, plural } from "./words.js";

const turned = signal(new Set()); // lines that somebody has opened or folded
const active = signal(null);

function turn(key) {
  const next = new Set(turned.value);
  if (!next.delete(key)) next.add(key);
  turned.value = next;
}

const services = (each) => each.services.map(([type, host, port], index) =>
  html`${index > 0 && ", "}<span title=${SERVICES[type]}>${host}:${port}</span>`);

const labels = (each) => Object.entries(each.labels).map(([key, value]) => html`<span class="label">${key}=${value}</span>`);

// Of who is alive it grows by itself.
function Ages({ since, at }) {
  return age((at ?? now.value) - since);
}

function Twisty({ line }) {
  if (line.open === undefined) return html`<span class="twisty" aria-hidden="true"></span>`;
  return html`<span class="twisty" aria-hidden="true" onClick=${(event) => (event.stopPropagation(), active.value = line.key, turn(line.key))}>${line.open ? "▾" : "▸"}</span>`;
}

function cellsOf(line, { children, at }, isTree, isNarrow) {
  const indent = { paddingInlineStart: `${(line.level - 1) * (isNarrow ? 10 : 18)}px` };
  if (line.group) {
    const { type, count, hosts, states } = line.group;
    const first = html`<span class="name" style=${indent}><${Twisty} line=${line} /><${Type} type=${type} /> <b>${count.toLocaleString("en")}</b></span>`;
    return [first, hosts > 1 ? `${hosts} hosts` : "1 host", states.join(", ") || STATES[HEALTHY], "", "", "", ""];
  }
  const { each } = line;
  const count = children.get(each.id)?.length || "";
  const rest = [each.host, html`<${State} status=${each.status} />`, html`<${Ages} since=${each.created} at=${at} />`, count,
    services(each), labels(each)];
  if (!isTree) return [html`<${Link} id=${each.id} inGrid />`, html`<${Type} type=${each.type} />`, ...rest];
  return [html`<span class="name" style=${indent}><${Twisty} line=${line} /><${Type} type=${each.type} /> <${Link} id=${each.id} inGrid tail=${isNarrow} /></span>`, ...rest];
}

const NOBODY = { rows: new Map(), children: new Map() };
const TREE_COLUMNS = COLUMNS.filter(({ name }) => name !== "type").map(({ name, title }) => ({ name, title }));

export function Fleet() {
  const isNarrow = useNarrow();
  const search = useRef(null);
  const { q = "", view = "tree", sort = "age" } = place.value.query;
  const at = moment(place.value.query.at);
  const past = usePast(at);
  const fleet = at === null ? { rows, children: children.value, at: null } : past || { ...NOBODY, at };
  const seen = at === null ? version.value : fleet;
  const found = useMemo(() => {
    const { test, problem } = understand(q);
    return { ...(view === "table" ? table(fleet, test, sort) : tree(fleet, test, turned.value)), problem };
  }, [seen, q, view, sort, turned.value]);
  const isTree = view !== "table";

  const columns = isTree ? TREE_COLUMNS : COLUMNS.map(({ name, title }) => ({
    name,
    title,
    sorted: sort === name ? "ascending" : sort === `-${name}` ? "descending" : undefined,
    sort: () => refine({ sort: sort === name ? `-${name}` : name }),
  }));

  function keys(event, line, move, at) {
    if (event.key === "Enter" && line.each) go(`/instances/${line.each.id}`);
    else if ((event.key === "Enter" || event.key === " ") && line.open !== undefined) turn(line.key);
    else if (event.key === "x" && line.each && fleet.at === null) aimed.value = line.each.id;
    else if (event.key === "ArrowRight" && isTree) {
      if (line.open === false) turn(line.key);
      else if (line.open) move(at + 1);
    } else if (event.key === "ArrowLeft" && isTree) {
      if (line.open) turn(line.key);
      else for (let above = at - 1; above >= 0; above--) if (found.lines[above].level < line.level) return move(above), true;
    } else return false;
    return true;
  }

  const isEmpty = at === null && loaded.value && ![...rows.values()].some(({ type }) => type !== MANAGER);
  const nobody = q ? html`<p class="nobody">Nobody matches. <button type="button" onClick=${() => refine({ q: "" })}>Clear the search</button></p>`
    : !(at === null ? loaded.value : past) && html`<p class="nobody">Loading…</p>`;
  return html`<main class="fleet">
    <h1 class="unseen">The fleet</h1>
    <div class="bar">
      <div class="search">
        <input type="search" id="search" ref=${search} value=${q} placeholder="Search: words, type: host: state: label:"
          aria-label="Search the fleet" aria-describedby="search-help" autocomplete="off" spellcheck=${false}
          onInput=${(event) => refine({ q: event.target.value })}
          onKeyDown=${(event) => event.key === "Escape" && (q ? refine({ q: "" }) : search.current.blur(), event.stopPropagation())} />
        <p id="search-help" class=${found.problem ? "help wrong" : "help"} aria-live="polite">${found.problem ||
          (q ? plural(found.count, "instance matches", "instances match") : html`${KEY_NAMES.map((name) => html`<code>${name}:</code> `)}`)}</p>
      </div>
      <div class="views" role="group" aria-label="View">
        <button type="button" aria-pressed=${isTree} onClick=${() => refine({ view: "" })}>Tree</button>
        <button type="button" aria-pressed=${!isTree} onClick=${() => refine({ view: "table" })}>Table</button>
      </div>
    </div>
    <${Times} at=${at} />
    <${AsOf} at=${at} found=${past} />
    ${at === null && total.value !== null && html`<p class="loading" role="status">${rows.size.toLocaleString("en")} of ${total.value.toLocaleString("en")} loaded</p>`}
    ${isEmpty && html`<${Empty} />`}
    <${Grid} key=${view} role=${isTree ? "treegrid" : "grid"} label=${isTree ? "The fleet as a tree" : "The fleet as a table"}
      columns=${columns} lines=${found.lines} cells=${(line) => cellsOf(line, fleet, isTree, isNarrow)}
      classes=${(line) => (line.each ? STATES[line.each.status] : "group")}
      active=${active.value} activate=${(key) => (active.value = key)} keys=${keys} empty=${nobody} />
  </main>`;
}
