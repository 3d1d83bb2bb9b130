// A grid of which only the lines in sight are drawn, however many there are. The keyboard moves one active line.

import { html } from "htm/preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

const SPARE = 8; // lines beyond the edge

const narrow = matchMedia("(max-width: 720px)");

export function useNarrow() {
  const [is, set] = useState(narrow.matches);
  useEffect(() => {
    const changed = () => set(narrow.matches);
    narrow.addEventListener("change", changed);
    return () => narrow.removeEventListener("change", changed);
  }, []);
  return is;
}

// `columns`: name, title, and `sorted` ("ascending", "descending" or nothing) with `sort()` where it can be sorted.
// `cells(line)`: the content of each column. `keys(event, line)`: what else the keyboard does with the active line.
export function Grid({ role, label, columns, lines, cells, classes, active, activate, keys, empty }) {
  const frame = useRef(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const height = useNarrow() ? 52 : 34;
  const place = lines.findIndex(({ key }) => key === active);

  // what was scrolled may be gone by the time that it is told
  const measure = () => frame.current && setView({ top: frame.current.scrollTop, height: frame.current.clientHeight });
  useLayoutEffect(() => {
    measure();
    const watched = new ResizeObserver(measure);
    watched.observe(frame.current);
    return () => watched.disconnect();
  }, []);

  function move(to) {
    if (!frame.current) return;
    const next = Math.max(0, Math.min(lines.length - 1, to));
    if (!lines[next]) return;
    activate(lines[next].key);
    const body = frame.current.querySelector(".body");
    const above = body.offsetTop, top = next * height;
    const head = frame.current.querySelector(".head").offsetHeight;
    if (top < frame.current.scrollTop - above + head) frame.current.scrollTop = top + above - head;
    else if (top + height > frame.current.scrollTop - above + frame.current.clientHeight) {
      frame.current.scrollTop = top + height + above - frame.current.clientHeight;
    }
  }

  function pressed(event) {
    const line = lines[place];
    const page = Math.max(1, Math.floor(view.height / height) - 2);
    const steps = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) {
      const step = steps[event.key];
      move(Number.isFinite(step) ? (place < 0 ? 0 : place + step) : step < 0 ? 0 : lines.length - 1);
    } else if (!line || !keys(event, line, move, place)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  // the keys work wherever one is on the page, as long as nothing is being typed
  useLayoutEffect(() => {
    const anywhere = (event) => {
      if (event.target.closest("input, textarea, select, dialog, button, a, summary, [role=grid], [role=treegrid]")) return;
      pressed(event);
    };
    addEventListener("keydown", anywhere);
    return () => removeEventListener("keydown", anywhere);
  });

  const first = Math.max(0, Math.floor(view.top / height) - SPARE);
  const shown = lines.slice(first, first + Math.ceil(view.height / height) + 2 * SPARE);
  const id = (key) => `line-${key.replace(/[^\w-]/g, "_")}`;
  const drawn = place >= first && place < first + shown.length;
  return html`
    <div class="grid" role=${role} aria-label=${label} aria-rowcount=${lines.length + 1} aria-colcount=${columns.length}
      tabindex="0" ref=${frame} onScroll=${measure}
      onKeyDown=${pressed} aria-activedescendant=${drawn ? id(active) : undefined}>
      <div class="head" role="row" aria-rowindex="1">
        ${columns.map(({ name, title, sorted, sort }) => html`
          <div class=${`cell ${name}`} role="columnheader" aria-sort=${sort ? sorted || "none" : undefined}>
            ${sort ? html`<button type="button" class="sort" onClick=${sort}>${title}
              <span aria-hidden="true">${{ ascending: " ▴", descending: " ▾" }[sorted] || ""}</span></button>` : title}
          </div>`)}
      </div>
      <div class="body" role="rowgroup" style=${{ height: `${lines.length * height}px` }}>
        ${shown.map((line, index) => html`
          <div key=${line.key} id=${id(line.key)} role="row"
            class=${`line ${line.key === active ? "active" : ""} ${classes(line)}`}
            style=${{ transform: `translateY(${(first + index) * height}px)`, height: `${height}px` }}
            aria-rowindex=${first + index + 2} aria-selected=${line.key === active}
            aria-level=${role === "treegrid" ? line.level : undefined}
            aria-posinset=${line.position} aria-setsize=${line.size} aria-expanded=${line.open}
            onClick=${() => activate(line.key)}>
            ${cells(line).map((content, column) => html`
              <div class=${`cell ${columns[column].name}`} role="gridcell">${content}</div>`)}
          </div>`)}
      </div>
      ${!lines.length && empty}
    </div>`;
}
