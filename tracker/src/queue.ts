import { sizeOf } from "./event";
import { safely } from "./safely";
import { uuid7 } from "./uuid";

/** An event that waits for the service's word. */
export interface Item {
  key: string;
  /** The event as JSON. */
  text: string;
  bytes: number;
  /** Its priority: the higher, the longer it is kept. */
  rank: number;
  /** Whether it is in a request on its way. */
  sending?: boolean;
}

export type Queue = ReturnType<typeof openQueue>;

/** The first letters of the priorities, the least first. */
const RANKS = "lmhc";
/** Bytes of all events on their way: browsers let bodies of 64 KiB outlive a page. */
const MAX_SENDING_BYTES = 63_000;
const EVENT_ID_LENGTH = 36;

/**
 * The events that the service has not acknowledged, in memory and in localStorage.
 *
 * Each has a key of its own: `<prefix><owner> <event_id>`. The owner is one page while it lives, which it shows by
 * holding a lock of that name. Whoever can get the lock of an owner takes over its events. Where there are no Web Locks
 * (a page without TLS) pages may send the same event: its `event_id` lets it be stored once.
 */
export const openQueue = (prefix: string, maxBytes: number) => {
  const own = `${prefix + uuid7()} `;
  const items = new Map<string, Item>();
  let bytes = 0;
  let releases: (() => void)[] = [];

  const append = (key: string, text: string): void => {
    // The priority stands before what the page may say.
    const rank = RANKS.indexOf(/"priority":"(.)/.exec(text)?.[1] as string);
    const item = { key, text, bytes: sizeOf(text), rank };
    items.set(key, item);
    bytes += item.bytes;
    while (bytes > maxBytes) {
      let least: Item | undefined;
      for (const one of items.values()) if (!one.sending && (!least || one.rank < least.rank)) least = one;
      if (!least) break;
      remove(least, true);
    }
  };

  /** Appends an event. */
  const put = (id: string, text: string): void => {
    safely(() => localStorage.setItem(own + id, text)); // it may be full or forbidden: then memory has to do
    append(own + id, text);
  };

  /** The next events that are in no request yet: at most `limit`, and so many bytes as fit beside those that are. */
  const take = (limit: number): Item[] => {
    const taken: Item[] = [];
    let room = MAX_SENDING_BYTES;
    for (const item of items.values()) {
      room -= item.bytes + 1; // and a comma
      if (room < 0) break;
      if (!item.sending && taken.length < limit) taken.push(item);
    }
    return taken;
  };

  /** Takes an event out; if it is `lost`, the service does not have it. */
  const remove = (item: Item, lost: unknown): void => {
    if (items.delete(item.key)) {
      bytes -= item.bytes;
      if (lost) queue.dropped++;
    }
    safely(() => localStorage.removeItem(item.key));
  };

  /** The keys in localStorage that begin so. */
  const keys = (start: string): string[] =>
    safely(() => Object.keys(localStorage).filter((key) => key.startsWith(start))) ?? [];

  /** Begins to own what is this page's, and takes over what pages left that are no more; then calls `found`. */
  const adopt = (found: () => void): void => {
    for (const owner of new Set([own, ...keys(prefix).map((key) => key.slice(0, -EVENT_ID_LENGTH))])) {
      hold(owner, () => {
        for (const key of keys(owner).sort()) if (!items.has(key)) append(key, localStorage.getItem(key) as string);
        found();
      });
    }
  };

  /** Holds the lock of an owner until this page goes, and calls `then`, if nobody else holds it. */
  const hold = (owner: string, then: () => void): void => {
    const { locks } = navigator;
    if (locks) {
      locks
        .request(owner, { ifAvailable: true }, (lock) => {
          if (!lock) return undefined;
          then();
          return new Promise<void>((release) => releases.push(release));
        })
        .catch(() => {}); // a sandboxed page has none
    } else then();
  };

  /** The page goes: others may take over. */
  const leave = (): void => {
    for (const release of releases) release();
    releases = [];
  };

  const queue = { items, dropped: 0, put, take, remove, adopt, leave };
  return queue;
};
