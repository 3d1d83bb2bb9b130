// One chart over a range: lines over time, drawn by uPlot in the colours of the page.

import { html } from "htm/preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { dark } from "./theme.js";
import { useNarrow } from "./grid.js";

// A pause in the measuring is a gap, and no line.
function gapped(times, series) {
  const steps = times.slice(1).map((time, index) => time - times[index]).sort((a, b) => a - b);
  const usual = steps[Math.floor(steps.length / 2)] || 0;
  const all = [times, ...series.map(({ values }) => values)];
  if (!usual) return all;
  const cuts = times.map((time, index) => index > 0 && time - times[index - 1] > 3.5 * usual);
  return all.map((values, row) => values.flatMap((value, index) => (cuts[index] ? [row ? null : times[index - 1] + usual, value] : [value])));
}

const two = (value) => String(value).padStart(2, "0");
const hour = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;
const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// `series`: name and values, `times` in seconds; `format` writes a value.
export function Chart({ title, times, series, range, format }) {
  const box = useRef(null);
  const isNarrow = useNarrow();
  const isDark = dark.value;
  useEffect(() => {
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const data = gapped(times, series);
    const last = data[0].length - 1;
    const long = range[1] - range[0] > 2 * 86400;
    const options = {
      width: box.current.clientWidth,
      height: isNarrow ? 160 : 190,
      cursor: { y: false, drag: { x: false, y: false } },
      legend: { live: true },
      scales: { x: { time: true, range: () => range }, y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map((each) => (long ? day : hour)(new Date(each * 1000))), space: long ? 90 : 60 }, { ...axis, size: 64, values: (_, ticks) => ticks.map((each) => format(each)) }],
      series: [
        { label: "At", value: (_, at) => ((at = new Date((at ?? data[0][last]) * 1000)), `${day(at)} ${hour(at)}`) },
        ...series.map(({ name }, index) => ({
          label: name,
          stroke: colour(`--series-${(index % 4) + 1}`),
          dash: index > 3 ? [4, 3] : undefined,
          width: 1.5,
          spanGaps: false,
          points: { show: times.length < 60, size: 4 },
          // where nobody points at a time, the latest
          value: (_, value, row, at) => ((value = at === null ? data[row][last] : value), value === null || value === undefined ? "–" : format(value)),
        })),
      ],
    };
    const plot = new uPlot(options, data, box.current);
    // a chart may be gone by the time that its size is told
    const watched = new ResizeObserver(() => box.current && plot.setSize({ width: box.current.clientWidth, height: options.height }));
    watched.observe(box.current);
    return () => (watched.disconnect(), plot.destroy());
  }, [times, series, isDark, isNarrow]);
  const latest = series.map(({ name, values }) => `${name} ${format(values.findLast((each) => each !== null) ?? 0)}`);
  return html`<figure class="chart"><figcaption>${title}</figcaption>
    <div ref=${box} role="img" aria-label=${`${title}, latest: ${latest.join(", ")}`}></div></figure>`;
}
