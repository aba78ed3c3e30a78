import { safely, warn } from "./safely";
import { startTracker } from "./tracker";
import type { EventOptions, Options, Status } from "./types.js";

export type { Category, EventOptions, Options, Priority, Status } from "./types.js";

/** How many calls of `track` before `init` are kept. */
const MAX_EARLY = 100;
const early: [string, EventOptions][] = [];
let tracker: ReturnType<typeof startTracker> | undefined;

/** Starts tracking, once a page. Earlier calls of `track` are kept and sent now. */
export const init = (options: Options): void => {
  const start = (event?: Event): void => {
    tracker ??= safely(() => startTracker(event ? { ...options, vitals: false } : options), warn);
    for (const call of early.splice(0)) track(...call);
  };
  // A page that the browser prerenders is not visible yet; once it is shown, its vitals would look too good.
  if ((document as { prerendering?: boolean }).prerendering) document.addEventListener("prerenderingchange", start);
  else start();
};

/** Tracks an event. Takes some microseconds and never throws. */
export const track = (name: string, options?: EventOptions): void => {
  if (tracker) safely(() => tracker?.track(name, options), warn);
  else if (early.length < MAX_EARLY) early.push([name, { timestamp: Date.now(), ...options }]);
};

/** What became of the events of this page; undefined before `init`. */
export const status = (): Status | undefined => tracker?.status();
