// Where we are: every view and every filter is in the address.

import { signal } from "@preact/signals";

const read = () => ({ path: location.pathname, query: Object.fromEntries(new URLSearchParams(location.search)) });

export const place = signal(read());

addEventListener("popstate", () => (place.value = read()));

export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined && value !== null);
  const text = new URLSearchParams(given).toString();
  return path + (text ? `?${text}` : "");
}

export function go(to) {
  history.pushState(null, "", to);
  place.value = read();
  scrollTo(0, 0);
}

// A filter that changes is no new page to come back to.
export function refine(query) {
  history.replaceState(null, "", address(place.value.path, { ...place.value.query, ...query }));
  place.value = read();
}

// Links within the console need no new page.
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='/']");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  if (link.hasAttribute("data-outside")) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
