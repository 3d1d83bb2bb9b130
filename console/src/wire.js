// Calls by Connect in JSON, and what the server has told the page about itself.

import { signal } from "@preact/signals";

export const signedOut = signal(false); // this manager asks who calls, and does not know

export const told = JSON.parse(document.documentElement.dataset.told);

export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export async function call(method, request, signal) {
  const headers = { "content-type": "application/json", proto_version: told.proto_version };
  let answer;
  try {
    answer = await fetch(`/instance_manager.${method}`, { method: "POST", headers, body: JSON.stringify(request), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("unavailable", "the manager cannot be reached");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) signedOut.value = true;
  if (!answer.ok) throw new Refused(body.code || "unknown", body.message || `the manager answered ${answer.status}`);
  return body;
}

// An answer that is not there is no fault: the unknown, the stale and the dead have none.
export const optional = (promise) => promise.catch((error) => (error.code === "not_found" ? null : Promise.reject(error)));
