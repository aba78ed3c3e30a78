import { listen } from "./safely";
import type { Track } from "./types";

/** A page that throws in a loop reports at most so many errors, each once. */
const MAX_ERRORS = 20;
const MAX_TEXT = 2000;

/** Tracks uncaught errors, also those of promises. */
export const watchErrors = (track: Track): void => {
  const seen = new Set<string>();
  const report = (error: unknown): void => {
    const message = String(error).slice(0, MAX_TEXT);
    const stack = (error as Error | undefined)?.stack?.slice(0, MAX_TEXT);
    const key = message + stack;
    if (seen.has(key) || seen.size >= MAX_ERRORS) return;
    seen.add(key);
    track("error", { category: "error", priority: "high", properties: { message, stack } });
  };
  listen("error", ({ error, message }) => report(error ?? message));
  listen("unhandledrejection", ({ reason }) => report(reason));
};
