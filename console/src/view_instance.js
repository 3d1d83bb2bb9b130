// All about one instance, alive or dead.

import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { children, events, now, rows, version } from "./fleet.js";
import { aimed } from "./kill.js";
import { Metrics } from "./metrics.js";
import { Copy, Link, Problem, State, Type } from "./parts.js";
import { address } from "./route.js";
import { Told } from "./story.js";
import { call, optional } from "./wire.js";
import { useHistory } from "./view_events.js";
import { DEAD, SERVICES, TYPES, age, clock, plural } from "./words.js";

const EVERY = 5000;
const SHOWN = 30;

// What the server knows of it, read anew at each of its events and every few seconds.
function useReport(id) {
  const [report, setReport] = useState(null);
  const [check, setCheck] = useState(null);
  const [problem, setProblem] = useState("");
  const last = events.value.find((each) => each.id === id)?.key;
  useEffect(() => {
    const end = new AbortController();
    async function read() {
      try {
        const described = await call("FleetService/DescribeInstance", { instance_id: id }, end.signal);
        setReport(described);
        setProblem("");
        if (described.instance.status === "STATUS_HEALTHY") {
          setCheck(await optional(call("GetService/GetHealthCheck", { instance_id: id }, end.signal)));
        } else setCheck(null);
      } catch (error) {
        if (error.name !== "AbortError") setProblem(error.message);
      }
    }
    read();
    const again = setInterval(read, EVERY);
    return () => (clearInterval(again), end.abort());
  }, [id, last]);
  return { report, check, problem };
}

// Those above it, the topmost first: the living as they are, the dead as they are remembered.
function useAncestors(parent) {
  const [above, setAbove] = useState([]);
  useEffect(() => {
    const end = new AbortController();
    (async () => {
      const found = [];
      for (let at = parent; at && found.length < 50 && !found.some(({ id }) => id === at); ) {
        const row = rows.get(at);
        if (row) {
          found.unshift({ id: at, type: row.type, status: row.status });
          at = row.parent;
          continue;
        }
        const known = await optional(call("FleetService/DescribeInstance", { instance_id: at }, end.signal));
        if (!known) break;
        found.unshift({ id: at, type: TYPES.indexOf(known.instance.instance_type), status: known.instance.status === "STATUS_DEAD" ? 3 : 1 });
        at = known.instance.parent_id;
      }
      setAbove(found);
    })().catch(() => {});
    return () => end.abort();
  }, [parent]);
  return above;
}

const Fact = ({ name, children: value }) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`;

function Health({ instance, check }) {
  const seen = Number(check?.last_health_check_ms || instance.last_health_check_ms || 0);
  const left = check && Number(check.deadline_ms) - now.value;
  return html`
    <${Fact} name="Last health check">${seen ? html`${age(now.value - seen)} ago <span class="soft">${clock(seen)}</span>` : "none"}</${Fact}>
    ${check && html`<${Fact} name="Stale in"><span class=${left < 5000 ? "warn" : ""}>${left > 0 ? age(left) : "a moment"}</span> <span class="soft">at ${clock(Number(check.deadline_ms))}, without another one</span></${Fact}>`}
    ${instance.status === "STATUS_STALE" && html`<${Fact} name="Health"><span class="warn">silent for longer than its timeout; it dies unless it is heard again</span></${Fact}>`}`;
}

function Death({ report }) {
  const { instance, causes = [], actor, note } = report;
  const cause = (instance.death_cause || "").replace("CAUSE_", "");
  const words = {
    KILLED: "It was killed",
    EXPIRED: "It was silent for longer than its timeout and grace",
    PARENT_DIED: "It died with its parent",
  }[cause];
  return html`<section class="death" aria-labelledby="death-title"><h2 id="death-title">Why it died</h2>
    <p><b>${words}</b>, ${clock(Number(instance.died_at_ms))}${actor && (cause === "KILLED" ? html`, by <span class="id">${actor}</span>` : "")}.
      ${note && html` <q>${note}</q>`}</p>
    ${causes.length > 0 && html`<ol class="chain" aria-label="From its parent to where it began">
      ${causes.map((each) => html`<li><${Type} type=${TYPES.indexOf(each.instance_type)} /> <${Link} id=${each.instance_id} />
        ${{ KILLED: "was killed", EXPIRED: "fell silent", PARENT_DIED: "died with its parent" }[(each.death_cause || "").replace("CAUSE_", "")]}</li>`)}
    </ol>${actor && html`<p class="soft">It began there, by <span class="id">${actor}</span>.</p>`}`}
  </section>`;
}

function Services({ services }) {
  if (!services.length) return html`<p class="soft">It offers none.</p>`;
  return html`<ul class="services">${services.map(({ service_type, host, port, path = "" }) => {
    const at = `${host.includes(":") ? `[${host}]` : host}:${port}`;
    return html`<li><span class="kind">${service_type}</span> <span class="id">${at}${path}</span> <${Copy} text=${at} what=${`${at} of ${service_type}`} />
      ${path && html`<${Copy} text=${`${SERVICES.indexOf(service_type) === 1 ? "ws" : "http"}://${at}${path}`} what=${`address with its path ${path}`} label="copy address" />`}</li>`;
  })}</ul>`;
}

function Children({ id }) {
  version.value;
  const own = (children.value.get(id) || []).filter(({ status }) => status !== DEAD).toSorted((a, b) => b.created - a.created);
  return html`<section aria-labelledby="children-title"><h2 id="children-title">Children <span class="soft">${own.length.toLocaleString("en")}</span></h2>
    ${!own.length && html`<p class="soft">None that is alive.</p>`}
    <ul class="children">${own.slice(0, SHOWN).map((each) => html`<li key=${each.id}><${State} status=${each.status} /> <${Type} type=${each.type} /> <${Link} id=${each.id} />${each.host && html` <span class="soft">on ${each.host}</span>`}</li>`)}</ul>
    ${own.length > SHOWN && html`<p class="soft">and ${plural(own.length - SHOWN, "more", "more")}, in the <a href="/">tree</a></p>`}
  </section>`;
}

function Story({ id }) {
  const { past, problem, more } = useHistory({ ids: [id], page_size: 50 });
  const newest = past.events.length ? past.events[0].revision : past.busy ? Infinity : 0;
  const live = events.value.filter((event) => event.id === id && event.revision > newest);
  return html`<section aria-labelledby="events-title"><div class="bar"><h2 id="events-title">Events</h2>
      <a href=${address("/events", { id, below: "1" })}>with all below it</a></div>
    ${problem && html`<${Problem}>${problem}</${Problem}>`}
    <ol class="told">${[...live, ...past.events].map((event) => html`<${Told} key=${event.key} event=${event} of=${id} />`)}</ol>
    ${past.token && html`<button type="button" disabled=${past.busy} onClick=${more}>Older</button>`}
  </section>`;
}

export function Instance({ id }) {
  const { report, check, problem } = useReport(id);
  const above = useAncestors(report?.instance.parent_id);
  if (!report) {
    return html`<main class="instance"><h1><span class="id">${id}</span></h1>
      ${problem ? html`<${Problem}>${problem}</${Problem}><p><a href="/">To the fleet</a></p>` : html`<p class="soft">Loading…</p>`}</main>`;
  }
  const { instance } = report;
  const type = TYPES.indexOf(instance.instance_type);
  const status = ["", "STATUS_HEALTHY", "STATUS_STALE", "STATUS_DEAD"].indexOf(instance.status);
  const dead = status === DEAD;
  const labels = Object.entries(instance.labels || {});
  return html`<main class="instance">
    ${above.length > 0 && html`<nav aria-label="Those above it"><ol class="above">${above.map((each) => html`<li key=${each.id}>
      <${Type} type=${each.type} /> <${Link} id=${each.id} /></li>`)}</ol></nav>`}
    <div class="title">
      <h1><${Type} type=${type} /> <span class="id">${instance.instance_id}</span></h1>
      <${Copy} text=${instance.instance_id} what="its id" />
      <${State} status=${status} />
      ${!dead && html`<button type="button" class="danger" onClick=${() => (aimed.value = instance.instance_id)}>Kill…</button>`}
    </div>
    ${problem && html`<${Problem}>${problem}</${Problem}>`}
    ${dead && html`<${Death} report=${report} />`}
    <section aria-labelledby="facts-title"><h2 id="facts-title" class="unseen">Identity and health</h2>
    <dl class="facts">
      <${Fact} name="Host">${instance.hostname || html`<span class="soft">none</span>`}</${Fact}>
      <${Fact} name="Registered">${clock(Number(instance.created_at_ms))} <span class="soft">${age(now.value - Number(instance.created_at_ms))} ago, revision ${instance.created_revision}</span></${Fact}>
      ${!dead && html`<${Health} instance=${instance} check=${check} />`}
      <${Fact} name="Timeout">${Number(instance.timeout_ms) / 1000} s</${Fact}>
      <${Fact} name="Labels">${labels.length ? labels.map(([key, value]) => html`<a class="label" href=${address("/", { q: `label:${key}=${value}` })}>${key}=${value}</a> `) : html`<span class="soft">none</span>`}</${Fact}>
      ${dead && html`<${Fact} name="Lived">${age(Number(instance.died_at_ms) - Number(instance.created_at_ms))}</${Fact}>`}
    </dl></section>
    <section aria-labelledby="services-title"><h2 id="services-title">Services</h2><${Services} services=${instance.services || []} /></section>
    <${Metrics} id=${id} until=${dead ? Number(instance.died_at_ms) + 1000 : 0} />
    <div class="two"><${Children} id=${id} /><${Story} id=${id} /></div>
  </main>`;
}
