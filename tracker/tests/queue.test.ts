import { beforeEach, expect, test, vi } from "vitest";
import { openQueue } from "../src/queue";
import { uuid7 } from "../src/uuid";
import { FakeLocks } from "./locks";

const PREFIX = "tracker https://x ";
const settled = () => new Promise((resolve) => setTimeout(resolve));
const event = (name: string, priority = "medium") => JSON.stringify({ event_name: name, priority });
const names = (queue: ReturnType<typeof openQueue>) => queue.take(1000).map((item) => JSON.parse(item.text).event_name);

let locks: FakeLocks;
beforeEach(() => {
  localStorage.clear();
  locks = new FakeLocks();
  vi.stubGlobal("navigator", { locks });
});

const open = (bytes = 1e6, prefix = PREFIX) => {
  const queue = openQueue(prefix, bytes);
  const found = vi.fn();
  queue.adopt(found);
  return Object.assign(queue, { found });
};
const put = (queue: ReturnType<typeof openQueue>, ...given: [string, string?][]) => {
  for (const [name, priority] of given) queue.put(uuid7(), event(name, priority));
};

test("an event is in localStorage until it is taken out", () => {
  const queue = open();
  put(queue, ["a"], ["b"]);
  expect(Object.values({ ...localStorage })).toEqual([event("a"), event("b")]);
  queue.remove(queue.take(1)[0]!, false);
  expect(Object.values({ ...localStorage })).toEqual([event("b")]);
  expect([queue.items.size, queue.dropped]).toEqual([1, 0]);
});

test("hands out what is in no request, up to a number and to what may be on its way at once", () => {
  const queue = open();
  put(queue, ["a"], ["b"], ["c"]);
  for (const item of queue.take(2)) item.sending = true;
  expect(names(queue)).toEqual(["c"]);
  put(queue, ["x".repeat(40_000)], ["y".repeat(40_000)]);
  expect(names(queue)).toEqual(["c", "x".repeat(40_000)]);
});

test("too many bytes: the oldest of the lowest priority goes first, never what is on its way", () => {
  const queue = open(event("a").length * 4);
  put(queue, ["a", "low"], ["b", "high"], ["c", "low"]);
  queue.take(1)[0]!.sending = true;
  put(queue, ["d", "high"], ["e", "critical"]);
  expect(names(queue)).toEqual(["b", "d", "e"]);
  put(queue, ["f", "critical"]);
  expect(names(queue)).toEqual(["d", "e", "f"]);
  expect(queue.dropped).toBe(2);
  expect(localStorage.length).toBe(4);
});

test("a page takes over what a page that is no more left, and only one does", async () => {
  const dead = open();
  put(dead, ["a"], ["b"]);
  dead.leave();
  await settled();
  const [one, other] = [open(), open()];
  await settled();
  expect([names(one).sort(), names(other)]).toEqual([["a", "b"], []]);
  expect([one.found.mock.calls.length, other.items.size]).toEqual([2, 0]);
  for (const item of one.take(10)) one.remove(item, false);
  expect(localStorage.length).toBe(0);
});

test("a page leaves alone what a page that lives has", async () => {
  const living = open();
  put(living, ["a"]);
  const other = open();
  await settled();
  expect(other.items.size).toBe(0);
});

test("a page leaves alone what is for another service", async () => {
  const other = open(1e6, `${PREFIX.trim()}/v2 `);
  put(other, ["a"]);
  other.leave();
  await settled();
  const queue = open();
  await settled();
  expect(queue.items.size).toBe(0);
});

test("what was taken over counts for the bound", async () => {
  const dead = open();
  put(dead, ["a", "low"], ["b"], ["c"]);
  dead.leave();
  await settled();
  const queue = open(event("a").length * 2 + 10);
  await settled();
  expect([names(queue).sort(), queue.dropped]).toEqual([["b", "c"], 1]);
});

test("without Web Locks a page takes everything over", () => {
  vi.stubGlobal("navigator", {});
  const dead = open();
  put(dead, ["a"]);
  const queue = open();
  expect(names(queue)).toEqual(["a"]);
  queue.adopt(queue.found);
  expect(names(queue)).toEqual(["a"]);
});

test("where Web Locks are refused nothing breaks", async () => {
  vi.stubGlobal("navigator", { locks: { request: () => Promise.reject(new Error("sandbox")) } });
  const queue = open();
  put(queue, ["a"]);
  await settled();
  expect(names(queue)).toEqual(["a"]);
});

test.each([
  ["forbidden", undefined],
  [
    "full",
    {
      setItem: () => {
        throw new Error("full");
      },
      removeItem: () => {},
    },
  ],
])("where localStorage is %s memory has to do", (_, storage) => {
  vi.stubGlobal("localStorage", storage);
  const queue = open();
  put(queue, ["a"], ["b"]);
  queue.remove(queue.take(1)[0]!, true);
  expect([names(queue), queue.dropped]).toEqual([["b"], 1]);
});
