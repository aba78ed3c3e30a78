import { safely, warn } from "./safely";

/** The largest event, in bytes of JSON: while a page closes, only 64 KiB can be sent. */
export const MAX_EVENT_BYTES = 60_000;

/** How many bytes a text takes. */
export const sizeOf = (text: string): number => new TextEncoder().encode(text).length;

/**
 * An event as JSON. If its properties can't be JSON or are too large, `tracker_error` replaces them: the event is kept.
 *
 * Half a surrogate pair, with which cut text may end, is not UTF-8, so the service would refuse the event.
 */
export const serialize = (event: object, properties: unknown): string => {
  let text = safely(() => JSON.stringify({ ...event, properties }), warn);
  if (!text || sizeOf(text) > MAX_EVENT_BYTES) {
    text = JSON.stringify({ ...event, properties: { tracker_error: true } });
  }
  return text.replace(/\\(\\|ud[89a-f]..)/g, (found, code) => (code > "u" ? "\\ufffd" : found));
};
