// A page that the browser makes ready in case that it is wanted: a file of its own, because a page starts once.
import { expect, test, vi } from "vitest";
import { init, status, track } from "../src/index";

test("nothing is tracked until somebody looks at the page", () => {
  const prerendered = Object.assign(document, { prerendering: true });
  vi.stubGlobal("fetch", vi.fn());
  init({ url: "https://x/api", token: "t", vitals: true });
  track("early");
  expect(status()).toBeUndefined();
  expect(localStorage.length).toBe(0);
  prerendered.prerendering = false;
  document.dispatchEvent(new Event("prerenderingchange"));
  expect(status()).toMatchObject({ sequence: 2, queued: 2 });
});

test("its vitals are not: it was fast without merit", () => {
  dispatchEvent(new Event("visibilitychange"));
  expect(status()?.sequence).toBe(2);
});
