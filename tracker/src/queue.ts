import { sizeOf } from "./event";
import { safely } from "./safely";
import { uuid7 } from "./uuid";

/** An event that the service has not acknowledged. */
export interface Item {
  key: string;
  /** The event as JSON. */
  text: string;
  bytes: number;
  /** Its priority: events of higher rank are kept longer. */
  rank: number;
  /** Whether a request with it is on its way. */
  sending?: boolean;
}

export type Queue = ReturnType<typeof openQueue>;

/** The first letters of the priorities, the lowest first. */
const RANKS = "lmhc";
/** Bytes of all events on their way: in browsers, bodies of up to 64 KiB outlive a page. */
const MAX_SENDING_BYTES = 63_000;
const EVENT_ID_LENGTH = 36;

/**
 * The events that the service has not acknowledged, in memory and in localStorage.
 *
 * Each has a key of its own: `<prefix><owner> <event_id>`. The owner is a page, which holds a lock of that name while it
 * lives. Whoever can get the lock of an owner takes over its events. Without Web Locks (a page without TLS) several
 * pages may send the same event: thanks to its `event_id` it is stored once.
 */
export const openQueue = (prefix: string, maxBytes: number) => {
  const own = `${prefix + uuid7()} `;
  const items = new Map<string, Item>();
  let bytes = 0;
  let releases: (() => void)[] = [];

  const append = (key: string, text: string): void => {
    // The priority comes before any text that the page controls.
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
    safely(() => localStorage.setItem(own + id, text)); // it may be full or forbidden: then the event is only in memory
    append(own + id, text);
  };

  /** The next events that are not in a request yet: at most `limit`, and as many bytes as fit beside those that are. */
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

  /** Removes an event; `lost`: the service does not have it. */
  const remove = (item: Item, lost: unknown): void => {
    if (items.delete(item.key)) {
      bytes -= item.bytes;
      if (lost) queue.dropped++;
    }
    safely(() => localStorage.removeItem(item.key));
  };

  /** The keys in localStorage that begin with `start`. */
  const keys = (start: string): string[] =>
    safely(() => Object.keys(localStorage).filter((key) => key.startsWith(start))) ?? [];

  /** Takes the lock of this page, and takes over the events of closed pages; then calls `found`. */
  const adopt = (found: () => void): void => {
    for (const owner of new Set([own, ...keys(prefix).map((key) => key.slice(0, -EVENT_ID_LENGTH))])) {
      hold(owner, () => {
        for (const key of keys(owner).sort()) if (!items.has(key)) append(key, localStorage.getItem(key) as string);
        found();
      });
    }
  };

  /** If nobody holds the lock of an owner, holds it until this page goes, and calls `then`. */
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
