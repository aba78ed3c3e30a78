// The whole, on a page of its own: what is tracked, and that nothing reaches the page. Each test goes on with the page.
import { beforeAll, beforeEach, expect, test, vi } from "vitest";
import { init, status, track } from "../src/index";
import { FakeLocks } from "./locks";

type Sent = Record<string, any>;
const events: Sent[] = [];
const wait = () => vi.waitFor(() => expect(status()?.queued).toBe(0), 10_000);
const names = () => events.splice(0).map((event) => event.event_name);

beforeAll(() => {
  Object.defineProperty(navigator, "locks", { value: new FakeLocks() });
  Object.defineProperty(document, "referrer", { value: "https://search.example/?q=secret" });
  navigator.sendBeacon = () => true; // which the DOM of these tests would really send
  window.fetch = globalThis.fetch = vi.fn(async (_: string, request: RequestInit) => {
    const body = JSON.parse(request.body as string);
    events.push(...body.events);
    return new Response(JSON.stringify({ events_received: body.events.length }));
  }) as unknown as typeof fetch;
});
beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => {});
});

test("what is tracked before init is kept, with its time", async () => {
  expect(status()).toBeUndefined();
  const before = new Date().toISOString();
  track("early", { properties: { a: 1 } });
  await new Promise((resolve) => setTimeout(resolve, 20));
  init({
    url: "https://x/api",
    token: "t",
    errors: true,
    flushInterval: 1,
    cleanUrl: (url) => url.split("?")[0] ?? "",
  });
  await wait();
  expect(events.map((event) => event.event_name)).toEqual(["page_view", "early"]);
  const [view, early] = events.splice(0) as [Sent, Sent];
  expect(view).toMatchObject({ category: "page_view", priority: "medium", sequence: 1 });
  expect(view.referrer).toBe("https://search.example/");
  expect(early).toMatchObject({ sequence: 2, session_id: view.session_id, properties: { a: 1 } });
  expect(early.timestamp >= before && early.timestamp < view.timestamp).toBe(true);
});

test("an event has all that the table knows, and no other field", async () => {
  track("order_placed", { category: "trading", priority: "critical", properties: { total: 19.9 }, timestamp: 0 });
  await wait();
  const [event] = events.splice(0) as [Sent];
  expect(event).toMatchObject({
    event_name: "order_placed",
    category: "trading",
    priority: "critical",
    properties: { total: 19.9 },
    timestamp: "1970-01-01T00:00:00.000Z",
    sequence: 3,
    user_agent: navigator.userAgent,
  });
  expect(Object.keys(event).sort()).toEqual(
    [
      "event_id",
      "event_name",
      "category",
      "priority",
      "timestamp",
      "session_id",
      "sequence",
      "page_url",
      "referrer",
      "user_agent",
      "properties",
    ].sort(),
  );
});

test("a new address of a single-page app is a view, with the one before as referrer", async () => {
  history.pushState({}, "", "/orders?token=secret");
  history.replaceState({}, "", "/orders?token=other"); // the same once it is clean
  history.replaceState({}, "", "/orders/1");
  await wait();
  const views = events.splice(0);
  expect(views.map(({ page_url, referrer }) => [page_url, referrer].map((url) => new URL(url).pathname))).toEqual([
    ["/orders", "/"],
    ["/orders/1", "/orders"],
  ]);
});

test.each([
  ["no name", () => (track as any)()],
  ["null for everything", () => (track as any)(null, null)],
  ["a name that is no text", () => track(Object.create(null))],
  ["a symbol", () => track(Symbol("x") as any, { category: Symbol("y") as any })],
  ["an impossible time", () => track("x", { timestamp: Number.NaN })],
  ["a bigint as time", () => track("x", { timestamp: 1n as any })],
  ["a circle", () => track("x", { properties: globalThis as any })],
  [
    "options that throw",
    () =>
      track("x", {
        get properties(): never {
          throw new Error("no");
        },
      }),
  ],
  ["a second init", () => init({ url: "https://y", token: "u" })],
])("%s throws nothing", async (_, call) => {
  expect(call).not.toThrow();
  await wait();
});

test("the numbers of the session have no gap, whatever was tried", async () => {
  track("last");
  await wait();
  const numbers = events.splice(0).map((event) => event.sequence);
  expect(numbers).toEqual(numbers.map((_, index) => numbers[0] + index));
  expect(numbers.at(-1)).toBe(status()?.sequence);
});

test("errors that nobody caught are tracked, each once", async () => {
  const error = new TypeError("x is not a function");
  for (let time = 0; time < 3; time++) dispatchEvent(new ErrorEvent("error", { error, message: error.message }));
  dispatchEvent(new ErrorEvent("error", { message: "Script error." }));
  dispatchEvent(Object.assign(new Event("unhandledrejection"), { reason: "no" }));
  dispatchEvent(Object.assign(new Event("unhandledrejection"), { reason: undefined }));
  await wait();
  const found = events.splice(0);
  expect(found.map((event) => event.properties.message)).toEqual([
    "TypeError: x is not a function",
    "Script error.",
    "no",
    "undefined",
  ]);
  expect(found[0]).toMatchObject({ event_name: "error", category: "error", priority: "high" });
  expect(found[0]!.properties.stack).toContain("tracker.test.ts");
});

test("a loop of errors ends in twenty", async () => {
  for (let time = 0; time < 100; time++) dispatchEvent(new ErrorEvent("error", { error: new Error(`number ${time}`) }));
  await wait();
  expect(names().length).toBe(16);
});

test("a page that comes back from the back/forward cache goes on with the session, and is a view", async () => {
  const before = status();
  dispatchEvent(new Event("pagehide"));
  expect(sessionStorage.length).toBe(1);
  dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  await vi.waitFor(() => expect(sessionStorage.length).toBe(0));
  await wait();
  const [view] = events.splice(0);
  expect(view).toMatchObject({ event_name: "page_view", session_id: before!.id, sequence: before!.sequence + 1 });
});

test("what a page tracks before the session is handed back has a session of its own", async () => {
  const before = status();
  dispatchEvent(new Event("pagehide"));
  dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  track("too soon");
  await new Promise((resolve) => setTimeout(resolve, 10));
  await wait();
  const numbers = events.splice(0).map((event) => [event.event_name, event.sequence, event.session_id !== before?.id]);
  expect(numbers).toEqual([
    ["too soon", 1, true],
    ["page_view", 2, true],
  ]);
});

test("what a page tracks after it has left is in the session too", async () => {
  dispatchEvent(new Event("pagehide"));
  track("bye");
  const left = JSON.parse(Object.values({ ...sessionStorage })[0] as string);
  expect(left).toMatchObject({ id: status()!.id, sequence: status()!.sequence });
});
