import { listen } from "./safely";
import type { Track } from "./types";

/** Fields that TypeScript's library lacks. */
interface Entry extends PerformanceNavigationTiming {
  value: number;
  hadRecentInput: boolean;
  interactionId: number;
}

/**
 * Tracks the web vitals of this page when it is first hidden, as https://web.dev/articles/vitals defines them, in
 * milliseconds. A page that begins hidden has none: its times would depend on when somebody looks at it.
 */
export const watchVitals = (track: Track): void => {
  const vitals: Record<string, number | undefined> = {};
  const durations: Record<number, number> = {};
  let burst = 0;
  let first = 0;
  let last = 0;
  let told = document.hidden;

  const observe = (type: string, take: (entry: Entry) => void): void => {
    new PerformanceObserver((list) => (list.getEntries() as Entry[]).forEach(take)).observe({
      type,
      buffered: true,
      durationThreshold: 40, // of events
    } as PerformanceObserverInit);
  };

  observe("navigation", ({ responseStart }) => {
    vitals.ttfb = responseStart;
  });
  // The later of the two paints is the first with content.
  observe("paint", ({ startTime }) => {
    vitals.fcp = startTime;
  });
  observe("largest-contentful-paint", ({ startTime }) => {
    vitals.lcp = startTime;
  });
  if ("LayoutShift" in window) vitals.cls = 0;
  observe("layout-shift", ({ startTime, value, hadRecentInput }) => {
    if (hadRecentInput) return;
    // The worst burst of shifts counts: at most 1 s between two of them, 5 s in all.
    if (startTime - last > 1000 || startTime - first > 5000) {
      burst = 0;
      first = startTime;
    }
    last = startTime;
    burst += value;
    vitals.cls = Math.max(vitals.cls as number, burst);
  });
  observe("event", ({ interactionId, duration }) => {
    if (interactionId) durations[interactionId] = Math.max(durations[interactionId] ?? 0, duration);
  });

  listen("visibilitychange", () => {
    if (told) return;
    told = true;
    // The slowest interaction counts; of each 50, one more may be slower.
    const skipped = ((performance as { interactionCount?: number }).interactionCount as number) / 50;
    vitals.inp = Object.values(durations).sort((a, b) => b - a)[skipped | 0];
    track("web_vitals", { category: "performance", priority: "low", properties: vitals });
  });
};
