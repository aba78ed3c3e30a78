// @vitest-environment node
import { expect, test, vi } from "vitest";
import { MAX_EVENT_BYTES, serialize, sizeOf } from "../src/event";

const EVENT = { event_name: "order_placed" };
const parse = (properties: unknown) => JSON.parse(serialize(EVENT, properties));

test("keeps properties as JSON", () => {
  expect(parse({ total: 19.9, items: ["a"] })).toEqual({ ...EVENT, properties: { total: 19.9, items: ["a"] } });
  expect(parse(undefined)).toEqual(EVENT);
});

test.each([
  ["a circle", () => Object.assign([], { 0: null }) && circle()],
  ["a bigint", () => ({ big: 1n })],
  [
    "a getter that throws",
    () => ({
      get bad() {
        throw new Error("no");
      },
    }),
  ],
  ["too much", () => ({ text: "x".repeat(MAX_EVENT_BYTES) })],
  ["too much in UTF-8", () => ({ text: "€".repeat(MAX_EVENT_BYTES / 3) })],
])("keeps an event whose properties are %s", (_, make) => {
  vi.spyOn(console, "warn").mockImplementation(() => {});
  expect(parse(make())).toEqual({ ...EVENT, properties: { tracker_error: true } });
});

const circle = () => {
  const loop: Record<string, unknown> = {};
  loop.self = loop;
  return loop;
};

test.each([
  ["\ud83d", "\ufffd"],
  ["\udc00x", "\ufffdx"],
  ["😀", "😀"],
  ["\\ud83d", "\\ud83d"],
  ["\\\ud83d", "\\\ufffd"],
  ["\\\\ud83d", "\\\\ud83d"],
  ['\n\t"\\', '\n\t"\\'],
])("makes %j UTF-8", (given, kept) => {
  expect(parse({ text: given }).properties.text).toBe(kept);
});

test("measures in bytes", () => {
  expect(sizeOf("a€😀")).toBe(8);
});
