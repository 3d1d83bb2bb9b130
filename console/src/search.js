// What is searched for: words and `key:value`, all of which must hold; a minus before one turns it around.

import { SERVICES, STATES, TYPES } from "./words.js";

const KEYS = {
  type: (each, value) => TYPES[each.type].toLowerCase().includes(value),
  host: (each, value) => each.host.toLowerCase().includes(value),
  state: (each, value) => STATES[each.status].startsWith(value),
  label: (each, value) => {
    const [key, ...rest] = value.split("=");
    return Object.entries(each.labels).some(([name, text]) =>
      name.toLowerCase() === key && (!rest.length || text.toLowerCase() === rest.join("=")));
  },
  id: (each, value) => each.id.startsWith(value) || each.id.endsWith(value),
  service: (each, value) => each.services.some(([type, host, port]) =>
    SERVICES[type].toLowerCase().includes(value) || `${host}:${port}`.includes(value)),
};

export const KEY_NAMES = Object.keys(KEYS);

// A predicate, or null where nothing is searched for; and what is wrong with the search, if anything is.
export function understand(text) {
  const tests = [];
  let problem = "";
  for (const [whole] of text.matchAll(/(?:[^\s"]|"[^"]*"?)+/g)) {
    const word = whole.replaceAll('"', "").toLowerCase();
    const negative = word.startsWith("-") && word.length > 1;
    const bare = negative ? word.slice(1) : word;
    const colon = bare.indexOf(":");
    const key = colon > 0 ? bare.slice(0, colon) : "";
    const value = bare.slice(colon + 1);
    let test;
    if (KEYS[key]) {
      if (!value) continue; // it is still being typed
      test = (each) => KEYS[key](each, value);
    } else {
      if (/^[a-z]+$/.test(key)) problem = `there is no ${key}: here; there are ${KEY_NAMES.map((name) => `${name}:`).join(" ")}`;
      test = (each) => each.text.includes(bare) || TYPES[each.type].toLowerCase().includes(bare);
    }
    tests.push(negative ? (each) => !test(each) : test);
  }
  return { test: tests.length ? (each) => tests.every((one) => one(each)) : null, problem };
}
