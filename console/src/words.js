// The contract's words, by their numbers.

export const TYPES = ["", "CHROME_BROWSER", "WARMPOOL_CHROME_BROWSER", "WARMPOOL_PROXY", "INSTANCE_MANAGER", "VLLM",
  "BROWSER_BACKEND"];
export const SERVICES = ["", "CHROME_DEBUG_PORT", "VLLM_OPENAI_COMPATIBLE"];
export const STATES = ["", "healthy", "stale", "dead"];
export const MARKS = ["", "●", "◐", "✕"];
export const KINDS = ["", "ADDED", "REMOVED", "CHILD_ADDED", "PARENT_ADDED", "SERVICE_ADDED", "STALE", "RECOVERED",
  "UPDATED"];
export const CAUSES = ["", "KILLED", "EXPIRED", "PARENT_DIED"];
export const HEALTHY = 1, STALE = 2, DEAD = 3;
export const MANAGER = 4;

// What an event says, for people; `other` is a link to whom it names.
export const SAYS = {
  ADDED: "registered",
  REMOVED: "died",
  CHILD_ADDED: "became the parent of",
  PARENT_ADDED: "became a child of",
  SERVICE_ADDED: "offers a service",
  STALE: "fell silent",
  RECOVERED: "is heard again",
  UPDATED: "was updated",
};

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

// The end of a version-7 id tells instances of one second apart; its beginning does not.
export const short = (id) => `${id.slice(0, 8)}…${id.slice(-6)}`;

export function age(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let place = 0;
  while (Math.abs(value) >= 1024 && place < units.length - 1) {
    value /= 1024;
    place += 1;
  }
  return `${value >= 100 || place === 0 ? Math.round(value) : value.toFixed(1)} ${units[place]}`;
}

export function number(value) {
  if (value === null || value === undefined) return "";
  return Math.abs(value) >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

const two = (value) => String(value).padStart(2, "0");

// In local time, with the date where it is not today's.
export function clock(milliseconds) {
  const at = new Date(milliseconds);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (at.toDateString() === new Date().toDateString()) return time;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}
