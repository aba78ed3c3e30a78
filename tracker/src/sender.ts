import type { Item, Queue } from "./queue";
import { safely, warn } from "./safely";
import type { Session } from "./session";
import type { Options } from "./types";

/** Most events in a request; the service takes no more. */
const MAX_EVENTS = 100;
const REQUEST_TIMEOUT = 30_000;
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 60_000;
/** After the service refused the page itself, such as its token: pages stay open all day, and mistakes get corrected. */
const REFUSED_PAUSE = 600_000;
/** A longer Retry-After is not believed. */
const LONGEST_RETRY_AFTER = 3_600_000;

/** What is wrong with an event, in the service's words: `["body", "events", place]`. */
interface Fault {
  type: string;
  loc: (string | number)[];
}

/** Sends the queue, one request at a time, and removes events that the service has or will never take. */
export const startSender = (options: Options, queue: Queue, session: Session) => {
  const batchSize = Math.min(options.batchSize ?? 20, MAX_EVENTS);
  const clientId = options.clientId && String(options.clientId); // another type would get every batch refused
  let timer: ReturnType<typeof setTimeout>;
  let due = Number.POSITIVE_INFINITY;
  let notBefore = 0;
  let failures = 0;
  let eventsSending = 0;
  let limit = MAX_EVENTS;
  let stoppedUntil = 0;

  /** Makes sure that waiting events are sent: at once if `urgent` or enough for a batch, else with those that come soon. */
  const wake = (urgent?: boolean): void => {
    const now = Date.now();
    const waiting = queue.items.size - eventsSending;
    const delay = urgent || waiting >= batchSize ? 0 : (options.flushInterval ?? 2000);
    const at = Math.max(now + delay, notBefore, stoppedUntil, session.pausedUntil);
    if (!waiting || at >= due) return;
    due = at;
    clearTimeout(timer);
    timer = setTimeout(() => {
      due = Number.POSITIVE_INFINITY;
      if (!eventsSending) sendNext(); // otherwise the end of that request wakes us
    }, at - now);
  };

  /** The network is back: forgets a pause that was only a guess. */
  const retry = (): void => {
    notBefore = failures = 0;
    wake(true);
  };

  /** The page may end now: sends all that can outlive it. */
  const leave = (): void => {
    if (Math.max(stoppedUntil, session.pausedUntil) < Date.now()) while (sendNext(true));
  };

  /** Sends the next batch, and returns whether there was one. */
  const sendNext = (leaving?: boolean): boolean => {
    const batch = queue.take(limit);
    if (batch.length) send(batch, leaving);
    return batch.length > 0;
  };

  const send = async (batch: Item[], leaving?: boolean): Promise<void> => {
    const envelope = JSON.stringify({ events: [], client_id: clientId, sent_at: new Date() });
    const body = envelope.replace("]", () => `${batch.map((item) => item.text)}]`);
    const mark = (sending: boolean): void => {
      for (const item of batch) item.sending = sending;
      eventsSending += sending ? batch.length : -batch.length;
    };
    mark(true);
    try {
      if (leaving && !("keepalive" in Request.prototype)) throw 0;
      const response = await fetch(`${options.url}/batch`, {
        method: "POST",
        body,
        keepalive: true,
        headers: { Authorization: `Bearer ${options.token}`, Prefer: "handling=lenient" },
        signal: AbortSignal.timeout?.(REQUEST_TIMEOUT),
      });
      await settle(batch, response);
      notBefore = failures = 0;
    } catch {
      const pause = Math.min(FIRST_PAUSE * 2 ** failures++, LONGEST_PAUSE);
      notBefore = Date.now() + pause * (0.5 + Math.random());
      // Nobody hears whether this arrives: the events stay in the queue.
      if (leaving)
        safely(() => navigator.sendBeacon(`${options.url}/beacon?token=${encodeURIComponent(options.token)}`, body));
    }
    await undefined; // so that `leave`, which sends batches in a row, does not take this one again
    mark(false);
    due = Number.POSITIVE_INFINITY; // events that were due sooner may have to wait now
    wake(limit < MAX_EVENTS);
  };

  /** Handles the answer to a batch. Throws if the batch must be sent again. */
  const settle = async (batch: Item[], response: Response): Promise<void> => {
    const { ok, status, headers } = response;
    const retryAfter = headers.get("Retry-After");
    if (retryAfter) {
      const wait = Number(retryAfter) * 1000 || Date.parse(retryAfter) - Date.now() || 0;
      session.pausedUntil = Date.now() + Math.min(wait, LONGEST_RETRY_AFTER) + Math.random() * FIRST_PAUSE;
    }
    if (status >= 500 || status === 408 || status === 429) throw 0;
    if (!ok && status !== 413 && status !== 422) {
      stoppedUntil = Date.now() + REFUSED_PAUSE;
      return warn(status);
    }
    const answer = status === 413 ? {} : await response.json();
    const faults: Fault[] = answer.errors ?? answer.detail ?? [];
    if (ok && answer.events_received !== batch.length) throw 0; // the answer comes from something in between
    batch.forEach((item, place) => {
      const fault = faults.find(({ loc }) => loc[1] === "events" && loc[2] === place);
      if (fault ? fault.type !== "shed" : ok || batch.length === 1) queue.remove(item, fault ?? !ok);
    });
    limit = ok ? Math.min(limit * 2, MAX_EVENTS) : Math.ceil(batch.length / 2);
    if (faults.length) warn(faults);
    if (faults.some(({ type }) => type === "shed")) throw 0;
  };

  return { wake, retry, leave };
};
