// Killing: first who dies with it, then, where that is many, their number in the operator's own hand.

import { html } from "htm/preact";
import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { rows, subtree } from "./fleet.js";
import { Dialog, Problem, say } from "./parts.js";
import { call } from "./wire.js";
import { MANAGER, TYPES, plural, short } from "./words.js";

const MANY = 20;
const SHOWN = 8;

export const aimed = signal(null); // at whom, while the dialog is open

const counted = (some, key) => {
  const found = new Map();
  for (const each of some) found.set(key(each), (found.get(key(each)) || 0) + 1);
  return [...found].sort(([, a], [, b]) => b - a);
};

function Counts({ title, counts }) {
  const rest = counts.slice(SHOWN).reduce((sum, [, count]) => sum + count, 0);
  return html`<section><h3>${title}</h3><ul class="counts">
    ${counts.slice(0, SHOWN).map(([name, count]) => html`<li><b>${count.toLocaleString("en")}</b> ${name}</li>`)}
    ${rest > 0 && html`<li><b>${rest.toLocaleString("en")}</b> on ${counts.length - SHOWN} more</li>`}
  </ul></section>`;
}

export function Kill() {
  const id = aimed.value;
  return id && html`<${Ask} key=${id} id=${id} />`;
}

function Ask({ id }) {
  const [victims] = useState(() => subtree(id)); // what was read is what is confirmed
  const [typed, setTyped] = useState("");
  const [note, setNote] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const count = victims.length;
  const sure = count <= MANY || typed.trim().replaceAll(",", "") === String(count);
  const more = subtree(id).length - count;
  const close = () => (aimed.value = null);

  async function kill(event) {
    event.preventDefault();
    if (!sure || busy) return;
    setBusy(true);
    setProblem("");
    const begun = performance.now();
    try {
      const answer = await call("TryService/TryKillInstance", { instance_id: id, note });
      if (!answer.value) return setProblem(`It was not killed: ${(answer.reason || "").replace("REASON_", "").replaceAll("_", " ").toLowerCase()}.`);
      say(`Killed ${short(id)}${count > 1 ? ` and ${plural(count - 1, "more", "more")}` : ""} in ${Math.round(performance.now() - begun)} ms. Processes end at their next health check.`);
      close();
    } catch (error) {
      setProblem(error.message);
    } finally {
      setBusy(false);
    }
  }

  if (!count) return html`<${Dialog} title="Nobody to kill" close=${close}><p>This instance is not alive.</p></${Dialog}>`;
  return html`<${Dialog} title=${count > 1 ? `Kill ${plural(count, "instance")}?` : "Kill this instance?"} close=${close}>
    <form onSubmit=${kill}>
      <p><span class="id">${id}</span><br />${TYPES[victims[0].type]}${victims[0].host && ` on ${victims[0].host}`}</p>
      ${count > 1 && html`<p>${plural(count - 1, "instance")} below it ${count === 2 ? "dies" : "die"} in the same moment:</p>
        <div class="preview"><${Counts} title="By type" counts=${counted(victims, ({ type }) => TYPES[type])} />
        <${Counts} title="By host" counts=${counted(victims, ({ host }) => host || "no host")} /></div>`}
      ${victims[0].type === MANAGER && html`<p class="warn">This is a manager of this service: it drains and exits.</p>`}
      ${more !== 0 && html`<p class="warn">Since this was opened the tree has changed: ${more > 0 ? `${more} more` : `${-more} fewer`}.</p>`}
      <label>Note, for whoever asks why
        <input name="note" maxlength="1024" value=${note} onInput=${(event) => setNote(event.target.value)} /></label>
      ${count > MANY && html`<label>Type <b>${count}</b> to confirm
        <input name="confirm" inputmode="numeric" autocomplete="off" value=${typed}
          onInput=${(event) => setTyped(event.target.value)} /></label>`}
      ${problem && html`<${Problem}>${problem}</${Problem}>`}
      <div class="buttons">
        <button type="button" onClick=${close}>Cancel</button>
        <button type="submit" class="danger" disabled=${!sure || busy || !rows.has(id)}>Kill ${count > 1 ? `all ${count.toLocaleString("en")}` : "it"}</button>
      </div>
    </form>
  </${Dialog}>`;
}
