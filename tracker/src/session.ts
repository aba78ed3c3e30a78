import { safely } from "./safely";
import { uuid7 } from "./uuid";

export interface Session {
  id: string;
  /** The number of the latest event; the first one gets 1. */
  sequence: number;
  /** The time before which the service wants no request, in milliseconds since 1970. */
  pausedUntil: number;
}

/**
 * The session of this tab.
 *
 * A page that closes leaves it in sessionStorage, and the next one takes it out. So it is not there while a page is open:
 * a tab that is a copy of another finds nothing, and begins a session of its own. The key `""` finds none.
 */
export const openSession = (key: string): Session => {
  const found = safely(() => JSON.parse(sessionStorage.getItem(key) as string) as Session);
  safely(() => sessionStorage.removeItem(key));
  return found ?? { id: uuid7(), sequence: 0, pausedUntil: 0 };
};

/** Leaves the session for the next page. */
export const leaveSession = (key: string, session: Session): void => {
  safely(() => sessionStorage.setItem(key, JSON.stringify(session)));
};
