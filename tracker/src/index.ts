import { safely, warn } from "./safely";
import { startTracker } from "./tracker";
import type { EventOptions, Options, Status } from "./types.js";

export type { Category, EventOptions, Options, Priority, Status } from "./types.js";

/** Calls of `track` before `init` that are kept. */
const MAX_EARLY = 100;
const early: [string, EventOptions][] = [];
let tracker: ReturnType<typeof startTracker> | undefined;

/** Starts tracking, once a page. What was tracked before is kept, and sent from now on. */
export const init = (options: Options): void => {
  const start = (event?: Event): void => {
    tracker ??= safely(() => startTracker(event ? { ...options, vitals: false } : options), warn);
    for (const call of early.splice(0)) track(...call);
  };
  // A page that the browser makes ready in case that it is wanted is not looked at yet, and then was fast without merit.
  if ((document as { prerendering?: boolean }).prerendering) document.addEventListener("prerenderingchange", start);
  else start();
};

/** Tracks an event. Costs some microseconds and never throws. */
export const track = (name: string, options?: EventOptions): void => {
  if (tracker) safely(() => tracker?.track(name, options), warn);
  else if (early.length < MAX_EARLY) early.push([name, { timestamp: Date.now(), ...options }]);
};

/** What became of the events of this page; undefined before `init`. */
export const status = (): Status | undefined => tracker?.status();
