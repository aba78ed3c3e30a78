/** Tells the developer of the page, in its console. */
export const warn = (what: unknown): void => console.warn("tracker:", what);

/** What `work` returns; undefined if it throws, because no error of the tracker may reach the page. */
export const safely = <T>(work: () => T, tell?: (error: unknown) => void): T | undefined => {
  try {
    return work();
  } catch (error) {
    tell?.(error);
    return undefined;
  }
};

/** Calls `handle` for each such event of the window, including those that bubble up from the document. */
export const listen = <K extends keyof Events>(type: K, handle: (event: Events[K]) => void): void =>
  addEventListener(type, (event) => safely(() => handle(event as Events[K])));

type Events = WindowEventMap & { visibilitychange: Event };
