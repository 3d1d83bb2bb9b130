// What the fleet's view shows, line by line: a tree in which large groups of siblings are folded, or a table. `fleet` is
// the one that is shown: its `rows` by id, and the `children` of each that has any.

import { STALE, DEAD, STATES, TYPES } from "./words.js";

const MANY = 20; // siblings of one type: more are one line, until somebody opens it

const by = (key) => (a, b) => {
  const x = key(a), y = key(b);
  return x < y ? -1 : x > y ? 1 : a.id < b.id ? -1 : 1;
};

export const COLUMNS = [
  { name: "instance", title: "Instance", key: (each) => each.id },
  { name: "type", title: "Type", key: (each) => TYPES[each.type] },
  { name: "host", title: "Host", key: (each) => each.host },
  { name: "state", title: "State", key: (each) => -each.status },
  { name: "age", title: "Age", key: (each) => -each.created },
  { name: "children", title: "Children", key: (each, { children }) => children.get(each.id)?.length || 0 },
  { name: "services", title: "Services", key: (each) => each.services.map(([, host, port]) => `${host}:${port}`).join() },
  { name: "labels", title: "Labels", key: (each) => Object.entries(each.labels).map((pair) => pair.join("=")).join() },
];

// `sort` is a column's name, with a minus for the other way around.
export function table(fleet, test, sort) {
  const backwards = sort.startsWith("-");
  const column = COLUMNS.find(({ name }) => name === sort.replace("-", "")) || COLUMNS[0];
  const found = [...fleet.rows.values()];
  const shown = test ? found.filter(test) : found;
  const keyed = shown.map((each) => [column.key(each, fleet), each]); // once each, and not at every comparison
  keyed.sort(([x, a], [y, b]) => (x < y ? -1 : x > y ? 1 : a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
  if (backwards) keyed.reverse();
  return { lines: keyed.map(([, each]) => ({ key: each.id, each, level: 1 })), count: shown.length };
}

// `turned` holds the keys of lines that are not as they are by themselves: instances open, groups folded.
export function tree({ rows, children: below }, test, turned) {
  const kept = test ? matches(rows, test) : null;
  const lines = [];
  let count = 0;
  for (const each of rows.values()) count += !test || test(each);

  function place(siblings, level, above) {
    const shown = kept ? siblings.filter(({ id }) => kept.has(id)) : siblings;
    const types = new Map();
    for (const each of shown) {
      if (!types.has(each.type)) types.set(each.type, []);
      types.get(each.type).push(each);
    }
    const size = [...types.values()].reduce((sum, some) => sum + (some.length > MANY ? 1 : some.length), 0);
    let position = 0;
    for (const [type, some] of [...types].sort(([a], [b]) => (TYPES[a] < TYPES[b] ? -1 : 1))) {
      some.sort(by(({ host }) => host));
      if (some.length <= MANY) {
        for (const each of some) one(each, level, ++position, size);
        continue;
      }
      const key = `${above}/${type}`;
      const open = turned.has(key);
      lines.push({ key, group: summary(type, some), open, level, position: ++position, size });
      if (open) some.forEach((each, index) => one(each, level + 1, index + 1, some.length));
    }
  }

  function one(each, level, position, size) {
    const own = below.get(each.id);
    const open = own ? !turned.has(each.id) : undefined;
    lines.push({ key: each.id, each, open, level, position, size });
    if (open) place(own, level + 1, each.id);
  }

  const tops = [];
  for (const each of rows.values()) if (!each.parent || !rows.has(each.parent)) tops.push(each);
  place(tops, 1, "");
  return { lines, count };
}

// Who matches, and all above them, so that they can be seen where they are.
function matches(rows, test) {
  const kept = new Set();
  for (const each of rows.values()) {
    if (!test(each)) continue;
    for (let at = each; at && !kept.has(at.id); at = rows.get(at.parent)) kept.add(at.id);
  }
  return kept;
}

function summary(type, some) {
  const hosts = new Set(some.map(({ host }) => host));
  const stale = some.filter(({ status }) => status === STALE).length;
  const dead = some.filter(({ status }) => status === DEAD).length;
  const states = [stale && `${stale} ${STATES[STALE]}`, dead && `${dead} ${STATES[DEAD]}`].filter(Boolean);
  return { type, count: some.length, hosts: hosts.size, states };
}
