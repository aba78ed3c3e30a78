import { watchErrors } from "./errors";
import { serialize } from "./event";
import { watchPages } from "./pages";
import { openQueue } from "./queue";
import { listen, safely } from "./safely";
import { startSender } from "./sender";
import { leaveSession, openSession } from "./session";
import type { EventOptions, Options, Status } from "./types";
import { uuid7 } from "./uuid";
import { watchVitals } from "./vitals";

const MAX_NAME = 100;

/** Starts and connects the parts, which know nothing of each other. */
export const startTracker = (options: Options) => {
  const key = `tracker ${options.url} `;
  const session = openSession(key);
  const queue = openQueue(key, options.queueBytes ?? 1e6);
  const sender = startSender(options, queue, session);
  const clean = (url: string) => url && safely(() => (options.cleanUrl ?? String)(url));
  let referrer = clean(document.referrer);
  let left = false;

  const track = (name: string, about: EventOptions = {}): void => {
    const { category, priority = "medium", properties, timestamp } = about;
    const id = uuid7();
    const event = {
      event_id: id,
      event_name: String(name).slice(0, MAX_NAME),
      category,
      priority,
      timestamp: new Date(timestamp ?? Date.now()),
      session_id: session.id,
      sequence: session.sequence + 1,
      page_url: clean(location.href),
      referrer,
      user_agent: navigator.userAgent,
    };
    queue.put(id, serialize(event, properties));
    session.sequence++;
    if (left) leave();
    else sender.wake(priority === "critical");
  };

  const adopt = (): void => queue.adopt(sender.wake);

  const leave = (): void => {
    left = true;
    sender.leave();
    leaveSession(key, session);
    queue.leave();
  };

  adopt();
  if (options.vitals) safely(() => watchVitals(track));
  if (options.errors) watchErrors(track);
  const view = (before?: string): void => {
    referrer = before ?? referrer;
    track("page_view", { category: "page_view" });
  };
  const views = options.pageViews !== false;
  if (views) watchPages(clean, view);
  // Back from the back/forward cache. The page shown meanwhile hands over its session in a moment: until then, events
  // must not get numbers of the session that this page once handed over.
  listen("pageshow", ({ persisted }) => {
    if (!persisted) return;
    left = false;
    Object.assign(session, openSession(""));
    setTimeout(() => {
      if (!session.sequence) Object.assign(session, openSession(key));
      adopt();
      if (views) view();
    });
  });
  listen("visibilitychange", () => {
    if (!document.hidden) return adopt();
    sender.leave();
  });
  listen("pagehide", leave); // the page was hidden before
  listen("online", sender.retry);

  return { track, status: (): Status => ({ ...session, queued: queue.items.size, dropped: queue.dropped }) };
};
