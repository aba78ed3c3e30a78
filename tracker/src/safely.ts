/** Tells the developer of the page, in its console. */
export const warn = (what: unknown): void => console.warn("tracker:", what);

/** What `work` returns; undefined where it throws, because nothing of the tracker's may reach the page. */
export const safely = <T>(work: () => T, tell?: (error: unknown) => void): T | undefined => {
  try {
    return work();
  } catch (error) {
    tell?.(error);
    return undefined;
  }
};

/** Calls `handle` for each such event of the window, also for those of the document that bubble to it. */
export const listen = <K extends keyof Events>(type: K, handle: (event: Events[K]) => void): void =>
  addEventListener(type, (event) => safely(() => handle(event as Events[K])));

type Events = WindowEventMap & { visibilitychange: Event };
