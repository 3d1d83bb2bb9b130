// The console: one page, several views.

import "./style.css";
import "uplot/dist/uPlot.min.css";
import { html, render } from "htm/preact";
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { paused, pause, start } from "./fleet.js";
import { Header, Strips } from "./header.js";
import { Kill, aimed } from "./kill.js";
import { Dialog, Said } from "./parts.js";
import { go, place, refine } from "./route.js";
import { SignIn } from "./signin.js";
import { Events } from "./view_events.js";
import { Fleet } from "./view_fleet.js";
import { Instance } from "./view_instance.js";
import { told } from "./wire.js";

const helping = signal(false);

const KEYS = [
  ["j k, ↓ ↑", "the next line, the one before"],
  ["→ ←", "open, fold; into the tree, up to the parent"],
  ["Enter", "the page of an instance; open or fold a group"],
  ["x", "kill the instance, after a look at who dies with it"],
  ["/", "search"],
  ["t", "tree or table"],
  ["e, f", "events, fleet"],
  ["p", "pause, resume"],
  ["Esc", "close, clear, back to the fleet"],
  ["?", "this help"],
];

function Help() {
  return html`<${Dialog} title="Keys" close=${() => (helping.value = false)}>
    <dl class="keys">${KEYS.map(([key, what]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${what}</dd></div>`)}</dl>
    <p>Search for words, or for <code>type:</code> <code>host:</code> <code>state:</code> <code>label:</code> <code>id:</code> <code>service:</code>, all of which must hold; <code>-state:stale</code> turns one around, and quotes keep blanks.</p>
    <p class="soft">Instance Manager ${told.version}, contract ${told.proto_version.slice(0, 12)}</p>
    <div class="buttons"><button type="button" onClick=${() => (helping.value = false)}>Close</button></div>
  </${Dialog}>`;
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const { path, query } = place.value;
  const id = path.match(/^\/instances\/([^/]+)$/)?.[1];
  const does = {
    "/": () => (path === "/" || go("/"), requestAnimationFrame(() => document.getElementById("search")?.focus())),
    "?": () => (helping.value = true),
    t: () => (path === "/" ? refine({ view: query.view === "table" ? "" : "table" }) : go("/")),
    e: () => go("/events"),
    f: () => go("/"),
    p: () => pause(!paused.value),
    x: () => id && (aimed.value = id),
    Escape: () => (path !== "/" ? go("/") : query.q && refine({ q: "" })),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
}

function View() {
  const { path } = place.value;
  const id = path.match(/^\/instances\/([^/]+)$/)?.[1];
  if (id) return html`<${Instance} key=${id} id=${id.toLowerCase()} />`;
  return path === "/events" ? html`<${Events} />` : html`<${Fleet} />`;
}

function App() {
  useEffect(() => {
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  useEffect(() => {
    document.title = `${{ "/events": "Events · " }[place.value.path] || ""}Instance Manager`;
  }, [place.value.path]);
  return html`<a class="skip" href="#view">To the content</a>
    <${Header} help=${() => (helping.value = true)} /><${Strips} />
    <div id="view" tabindex="-1"><${View} /></div>
    <${Said} /><${Kill} /><${SignIn} />${helping.value && html`<${Help} />`}`;
}

start();
render(html`<${App} />`, document.getElementById("app"));
