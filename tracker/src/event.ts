import { safely, warn } from "./safely";

/** No event is larger, in bytes of JSON: so that it can be sent while the page closes, where 64 KiB are allowed. */
export const MAX_EVENT_BYTES = 60_000;

/** How many bytes a text takes. */
export const sizeOf = (text: string): number => new TextEncoder().encode(text).length;

/**
 * An event as JSON. Properties that are no JSON or too large are replaced by `tracker_error`: the event is kept.
 *
 * Half a surrogate pair, which a text that was cut may end in, is no UTF-8 and would get the event refused.
 */
export const serialize = (event: object, properties: unknown): string => {
  let text = safely(() => JSON.stringify({ ...event, properties }), warn);
  if (!text || sizeOf(text) > MAX_EVENT_BYTES) {
    text = JSON.stringify({ ...event, properties: { tracker_error: true } });
  }
  return text.replace(/\\(\\|ud[89a-f]..)/g, (found, code) => (code > "u" ? "\\ufffd" : found));
};
