// Small things that several views show.

import { html } from "htm/preact";
import { signal } from "@preact/signals";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { MARKS, STATES, TYPES, short } from "./words.js";

// Never colour alone.
export const State = ({ status }) =>
  html`<span class=${`state ${STATES[status]}`}><span aria-hidden="true">${MARKS[status]}</span> ${STATES[status]}</span>`;

export const Type = ({ type }) => html`<span class=${`type t${type}`}>${TYPES[type] || "unknown"}</span>`;

// In a grid it is no stop of the Tab key: there the arrows go from line to line, and Enter opens.
export const Link = ({ id, inGrid, tail }) =>
  html`<a class="id" href=${`/instances/${id}`} title=${id} tabindex=${inGrid ? -1 : undefined}>${tail ? `…${id.slice(-6)}` : short(id)}</a>`;

export function Copy({ text, what, label = "copy" }) {
  const [done, set] = useState(false);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no clipboard without a secure origin
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    set(true);
    setTimeout(() => set(false), 1500);
  }
  return html`<button type="button" class="copy" onClick=${copy} aria-label=${`Copy ${what}`}>
    <span aria-live="polite">${done ? "copied" : label}</span></button>`;
}

// What has just happened, for a few seconds.
export const said = signal("");
let until = 0;
export function say(text) {
  said.value = text;
  clearTimeout(until);
  until = setTimeout(() => (said.value = ""), 6000);
}
export const Said = () => html`<div class="said" role="status">${said.value && html`<p>${said.value}</p>`}</div>`;

// A dialog that has the focus until it is closed, by Esc too.
export function Dialog({ title, close, children }) {
  const box = useRef(null);
  const name = useId(); // there may be two of them
  useEffect(() => {
    box.current.showModal();
  }, []);
  return html`<dialog ref=${box} aria-labelledby=${name} onClose=${close} onCancel=${close}
    onClick=${(event) => event.target === box.current && close()}>
    <div class="dialog"><h2 id=${name}>${title}</h2>${children}</div></dialog>`;
}

export const Problem = ({ children }) => html`<p class="problem" role="alert">${children}</p>`;
