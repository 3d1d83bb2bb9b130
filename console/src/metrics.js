// What an instance has measured over a range, as charts.

import { html } from "htm/preact";
import { useEffect, useState } from "preact/hooks";
import { Chart } from "./chart.js";
import { now } from "./fleet.js";
import { Problem } from "./parts.js";
import { place, refine } from "./route.js";
import { call, told } from "./wire.js";
import { bytes, number } from "./words.js";

const RANGES = [["15m", 900], ["1h", 3600], ["6h", 21600], ["1d", 86400], ["7d", 604800], ["30d", 2592000], ["90d", 7776000], ["1y", 31536000]];
const KINDS = ["METRICS_KIND_SYSTEM", "METRICS_KIND_PROXY", "METRICS_KIND_GPU", "METRICS_KIND_LLM"];
const POINTS = 240;
const EVERY = 10_000;

// The shorter ranges, up to the first one that holds all that is kept.
export const ranges = () => {
  const past = RANGES.findIndex(([, seconds]) => seconds >= told.metrics_kept);
  return past < 0 ? RANGES : RANGES.slice(0, past + 1);
};

const at = (sample) => Number(sample.timestamp_ms) / 1000;
const of = (samples, field) => samples.map((each) => Number(each[field] || 0));

// What grows for ever says more as a rate.
const rate = (samples, field) => samples.map((each, index) => {
  const before = samples[index - 1];
  if (!before || at(each) <= at(before)) return null;
  return Math.max(0, (Number(each[field] || 0) - Number(before[field] || 0)) / (at(each) - at(before)));
});

const perSecond = (format) => (value) => `${format(value)}/s`;
const percent = (value) => `${Math.round(value)} %`;

function charts({ system = [], proxy = [], llm = [] }, gpus, below) {
  const found = [];
  const add = (title, samples, format, ...series) =>
    samples.length && found.push({ title, times: samples.map(at), format, series: series.map(([name, values]) => ({ name, values })) });
  add("Memory", system, bytes, ["used", of(system, "used_memory_bytes")], ["of", of(system, "total_memory_bytes")]);
  add("Connections", proxy, number, ["active", of(proxy, "active_connections")]);
  add("New connections", proxy, perSecond(number), ["new", rate(proxy, "total_connections")]);
  add("Traffic", proxy, perSecond(bytes), ["sent", rate(proxy, "bytes_sent")], ["received", rate(proxy, "bytes_received")]);
  add("Requests", llm, perSecond(number), ["requests", rate(llm, "request_count")]);
  add("Tokens", llm, perSecond(number), ["received", rate(llm, "tokens_received")], ["sent", rate(llm, "tokens_sent")]);
  if (gpus.size) {
    const times = [...new Set([...gpus.values()].flatMap((samples) => samples.map(at)))].sort((a, b) => a - b);
    const lined = (field) => [...gpus].map(([index, samples]) => {
      const known = new Map(samples.map((each) => [at(each), Number(each[field] || 0)]));
      return { name: below ? "all GPUs" : `GPU ${index}`, values: times.map((time) => known.get(time) ?? null) };
    });
    found.push({ title: "GPU memory", times, format: bytes, series: lined("used_memory_bytes") });
    found.push({ title: "GPU use", times, format: percent, series: lined("utilization_percent") });
  }
  return found;
}

function byGpu(samples) {
  const gpus = new Map();
  for (const each of samples) {
    const index = each.gpu_index || 0;
    if (!gpus.has(index)) gpus.set(index, []);
    gpus.get(index).push(each);
  }
  return gpus;
}

export function Metrics({ id, until }) {
  const range = ranges().find(([name]) => name === place.value.query.range) || RANGES[0];
  const below = place.value.query.below === "1";
  const [shown, show] = useState(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    let over = false;
    const end = new AbortController();
    async function read() {
      const to = until || 0;
      const from = (until || now.peek()) - range[1] * 1000;
      try {
        const answers = await Promise.all(KINDS.map((kind) => call("FleetService/GetMetricsHistory",
          { instance_id: id, kind, from_ms: String(Math.round(from)), to_ms: String(to), max_points: POINTS, subtree: below }, end.signal)));
        if (over) return;
        const all = Object.assign({}, ...answers.map(({ from_ms, to_ms, ...samples }) => samples));
        const edges = [Number(answers[0].from_ms) / 1000, Number(answers[0].to_ms) / 1000];
        show({ charts: charts(all, byGpu(all.gpu || []), below), edges });
        setProblem("");
      } catch (error) {
        if (!over && error.name !== "AbortError") setProblem(error.message);
      }
    }
    read();
    const again = until ? 0 : setInterval(read, EVERY);
    return () => ((over = true), clearInterval(again), end.abort());
  }, [id, range[0], until, below]);

  return html`<section class="metrics" aria-labelledby="metrics-title">
    <div class="bar"><h2 id="metrics-title">Metrics</h2>
      <div class="views" role="group" aria-label="Of whom">
        <button type="button" aria-pressed=${!below} onClick=${() => refine({ below: "" })}>it alone</button>
        <button type="button" aria-pressed=${below} onClick=${() => refine({ below: "1" })}>with all below it</button></div>
      <div class="views" role="group" aria-label="Range">${ranges().map(([name]) => html`
        <button type="button" aria-pressed=${name === range[0]} onClick=${() => refine({ range: name })}>${name}</button>`)}</div></div>
    ${problem && html`<${Problem}>${problem}</${Problem}>`}
    ${shown && !shown.charts.length && html`<p class="soft">Nothing was measured in this time.</p>`}
    <div class="charts">${shown?.charts.map((each) => html`
      <${Chart} key=${each.title} title=${each.title} times=${each.times} series=${each.series} range=${shown.edges} format=${each.format} />`)}</div>
  </section>`;
}
