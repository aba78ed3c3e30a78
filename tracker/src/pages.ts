import { listen, safely } from "./safely";

/**
 * Calls `seen` for the view of this page and for each new address that a single-page app gives it, with the address
 * before, if there was one.
 */
export const watchPages = (
  clean: (url: string) => string | undefined,
  seen: (before: string | undefined) => void,
): void => {
  let address: string | undefined;
  const see = (): void => {
    const now = clean(location.href);
    if (now !== address) seen(address);
    address = now;
  };
  for (const method of ["pushState", "replaceState"] as const) {
    const original = history[method];
    history[method] = function (...given) {
      original.apply(this, given);
      safely(see);
    };
  }
  listen("popstate", see); // a new fragment too
  see();
};
