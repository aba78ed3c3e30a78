import { beforeEach, expect, test, vi } from "vitest";
import { watchVitals } from "../src/vitals";

let observers: Record<string, (entry: object) => void>;
let hidden = false;

beforeEach(() => {
  observers = {};
  hidden = false;
  Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
  vi.stubGlobal("LayoutShift", class {});
  vi.stubGlobal(
    "PerformanceObserver",
    class {
      constructor(readonly take: (list: { getEntries: () => object[] }) => void) {}
      observe({ type }: { type: string }) {
        observers[type] = (entry) => this.take({ getEntries: () => [entry] });
      }
    },
  );
});

const vitalsOf = (entries: [string, object][]) => {
  const track = vi.fn();
  watchVitals(track);
  for (const [type, entry] of entries) observers[type]?.(entry);
  dispatchEvent(new Event("visibilitychange"));
  dispatchEvent(new Event("visibilitychange"));
  expect(track).toHaveBeenCalledTimes(1);
  return track.mock.calls[0]![1].properties;
};
const shift = (startTime: number, value: number, hadRecentInput = false): [string, object] => [
  "layout-shift",
  { startTime, value, hadRecentInput },
];
const event = (interactionId: number, duration: number): [string, object] => ["event", { interactionId, duration }];

test("the times of a page", () => {
  expect(
    vitalsOf([
      ["navigation", { responseStart: 10 }],
      ["paint", { name: "first-paint", startTime: 20 }],
      ["paint", { name: "first-contentful-paint", startTime: 25 }],
      ["largest-contentful-paint", { startTime: 25 }],
      ["largest-contentful-paint", { startTime: 40 }],
    ]),
  ).toEqual({ ttfb: 10, fcp: 25, lcp: 40, cls: 0, inp: undefined });
});

test("CLS is the worst burst of shifts that no input caused", () => {
  const { cls } = vitalsOf([
    shift(100, 0.1),
    shift(900, 0.1),
    shift(1000, 5, true),
    shift(3000, 0.15),
    ...Array.from({ length: 12 }, (_, index) => shift(10_000 + index * 500, 0.03)),
  ]);
  expect(cls).toBeCloseTo(0.33); // 5 s hold eleven of them
});

test("INP is the slowest interaction", () => {
  expect(vitalsOf([event(1, 64), event(2, 200), event(2, 80), event(0, 900)]).inp).toBe(200);
});

test("of more than fifty interactions the slowest does not count", () => {
  vi.stubGlobal("performance", { now: () => 0, interactionCount: 60 });
  expect(vitalsOf([event(1, 64), event(2, 200), event(3, 80)]).inp).toBe(80);
});

test("a page that was hidden from its beginning has none", () => {
  hidden = true;
  const track = vi.fn();
  watchVitals(track);
  dispatchEvent(new Event("visibilitychange"));
  expect(track).not.toHaveBeenCalled();
});
