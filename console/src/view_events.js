// The feed of changes: those of this moment at the top, the kept history below, all behind one filter.

import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { events, loaded, paused, skipped } from "./fleet.js";
import { Problem } from "./parts.js";
import { place, refine } from "./route.js";
import { Told, fromList } from "./story.js";
import { call } from "./wire.js";
import { KINDS, TYPES } from "./words.js";

const PAGE = 100;

const wantedKinds = (query) => (query.kind ? query.kind.split(",").filter((each) => KINDS.includes(each)) : []);

function request({ kind, type, host, id, below }) {
  const given = { page_size: PAGE };
  if (kind) given.event_types = wantedKinds({ kind });
  if (type) given.types = [type];
  if (host) given.hostnames = [host];
  if (id && below) given.subtree_of = id;
  else if (id) given.ids = [id];
  return given;
}

const admits = ({ kind, type, host, id, below }) => (event) =>
  (!kind || wantedKinds({ kind }).includes(KINDS[event.kind])) && (!type || TYPES[event.type] === type) &&
  (!host || event.host === host) && (!id || event.id === id || (below && event.root === id));

export function useHistory(filter) {
  const [past, setPast] = useState({ events: [], token: null, busy: true });
  const [problem, setProblem] = useState("");
  const text = JSON.stringify(filter);
  const isLoaded = loaded.value; // read anew then: what happened between the two would be in neither
  async function read(before, token, signal) {
    try {
      let page = { events: before, token };
      do { // a page may be empty though there are more
        const answer = await call("FleetService/ListEvents", { ...filter, page_token: page.token || undefined }, signal);
        page = { events: [...page.events, ...(answer.events || []).map(fromList)], token: answer.next_page_token || null };
      } while (page.token && page.events.length < before.length + PAGE);
      setPast({ ...page, busy: false });
      setProblem("");
    } catch (error) {
      if (error.name === "AbortError") return;
      setProblem(error.message);
      setPast({ events: before, token, busy: false });
    }
  }
  useEffect(() => {
    const end = new AbortController();
    setPast({ events: [], token: null, busy: true });
    const soon = setTimeout(() => read([], null, end.signal), 150); // while a filter is being typed
    return () => (clearTimeout(soon), end.abort());
  }, [text, isLoaded]);
  const more = () => (setPast({ ...past, busy: true }), read(past.events, past.token));
  return { past, problem, more };
}

export function Events() {
  const { query } = place.value;
  const { past, problem, more } = useHistory(request(query));
  const newest = past.events.length ? past.events[0].revision : past.busy ? Infinity : 0;
  const live = events.value.filter((event) => event.revision > newest).filter(admits(query));
  const chosen = wantedKinds(query);
  const flip = (kind) => refine({ kind: (chosen.includes(kind) ? chosen.filter((each) => each !== kind) : [...chosen, kind]).join(",") });
  const all = [...live, ...past.events];
  return html`<main class="events">
    <h1>Events</h1>
    <form class="filters" onSubmit=${(event) => event.preventDefault()}>
      <fieldset><legend>Kinds</legend>${KINDS.slice(1).map((kind) => html`
        <label class="check"><input type="checkbox" checked=${chosen.includes(kind)} onChange=${() => flip(kind)} /> ${kind.replace("_", " ").toLowerCase()}</label>`)}
      </fieldset>
      <label>Type <select value=${query.type || ""} onChange=${(event) => refine({ type: event.target.value })}>
        <option value="">any</option>${TYPES.slice(1).map((type) => html`<option value=${type}>${type}</option>`)}</select></label>
      <label>Host <input value=${query.host || ""} onInput=${(event) => refine({ host: event.target.value.trim() })} spellcheck=${false} /></label>
      <label class="wide">Instance <input value=${query.id || ""} onInput=${(event) => refine({ id: event.target.value.trim() })} spellcheck=${false} placeholder="its whole id" /></label>
      <label class="check"><input type="checkbox" checked=${!!query.below} disabled=${!query.id} onChange=${(event) => refine({ below: event.target.checked ? "1" : "" })} /> and all below it</label>
    </form>
    ${paused.value && html`<p class="warn">Paused: nothing new is shown.</p>`}
    ${skipped.value > 0 && html`<p class="soft">Of large changes only the last events are shown as they come; load this page again for all.</p>`}
    ${problem && html`<${Problem}>${problem}</${Problem}>`}
    <ol class="told" aria-label="Events, the newest first">${all.map((event) => html`<${Told} key=${event.key} event=${event} />`)}</ol>
    ${!all.length && !past.busy && !problem && html`<p class="nobody">Nothing has happened that matches.</p>`}
    ${past.token && html`<button type="button" disabled=${past.busy} onClick=${more}>Older</button>`}
  </main>`;
}
