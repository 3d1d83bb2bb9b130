// Events as lines that people read.

import { html } from "htm/preact";
import { Link, Type } from "./parts.js";
import { CAUSES, KINDS, SAYS, SERVICES, TYPES, clock } from "./words.js";

// An event of ListEvents in the form that the stream has.
export function fromList({ update, actor, note }) {
  const { instance = {}, service } = update;
  return {
    key: `${update.revision}.${update.resume_token}`,
    revision: Number(update.revision),
    at: Number(update.timestamp_ms),
    kind: KINDS.indexOf(update.event_type),
    id: update.instance_id,
    type: TYPES.indexOf(instance.instance_type),
    host: instance.hostname || "",
    related: update.related_id,
    cause: CAUSES.indexOf((update.cause || "").replace("CAUSE_", "")),
    root: update.root_cause_id,
    service,
    actor,
    note,
  };
}

function Why({ event }) {
  if (event.cause <= 0 || !event.cause) return null;
  const words = { KILLED: "killed", EXPIRED: "silent for too long", PARENT_DIED: "with its parent; it began with " }[CAUSES[event.cause]];
  return html`<span class="why"> (${words}${CAUSES[event.cause] === "PARENT_DIED" && html`<${Link} id=${event.root} />`})</span>`;
}

export function Told({ event, of }) {
  const kind = KINDS[event.kind];
  return html`<li class=${`event ${kind.toLowerCase()}`}>
    <time datetime=${new Date(event.at).toISOString()}>${clock(event.at)}</time>
    <span class="what">
      ${event.id !== of && html`<${Type} type=${event.type} /> <${Link} id=${event.id} />${event.host && html` <span class="soft">on ${event.host}</span>`} `}
      <b>${SAYS[kind]}</b>
      ${event.related && html` <${Link} id=${event.related} />`}
      ${event.service && html` <span class="id">${SERVICES.indexOf(event.service.service_type) > 0 && event.service.service_type} ${event.service.host}:${event.service.port}${event.service.path}</span>`}
      <${Why} event=${event} />
      ${event.note && html`<q>${event.note}</q>`}
      ${event.actor && kind !== "STALE" && kind !== "RECOVERED" && html` <span class="soft">by ${event.actor}</span>`}
    </span>
    <span class="revision" title="revision">${event.revision}</span>
  </li>`;
}
