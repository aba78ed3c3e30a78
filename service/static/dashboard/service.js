// Questions to the service: which routes, with which token, and what a failure means.

const PREFIX = document.documentElement.dataset.prefix;
const TIMEOUT = 10_000;
const KEY = "analytics read token";

/** The service does not know the token, or the token may not read. */
export class TokenRefused extends Error {}

/** Nobody answers. */
export class Unreachable extends Error {}

/** The access token of this tab, or null. */
export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Where events are posted. */
export const eventsAddress = location.origin + PREFIX;

/**
 * The answer of a route for reading, as an object. A failure is thrown as an Error with the service's words, except
 * that of /health, which is an answer like others.
 */
export async function ask(path, signal) {
  let answer, body;
  try {
    answer = await fetch(PREFIX + path, {
      headers: { Authorization: `Bearer ${token.get()}` },
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT)]),
    });
    body = await answer.json();
  } catch (error) {
    throw new Unreachable(error.message); // or a proxy answers in the service's place, which is no better
  }
  if (answer.ok || body.status) return body;
  throw answer.status === 401 || answer.status === 403 ? new TokenRefused(body.detail) : new Error(body.detail);
}
