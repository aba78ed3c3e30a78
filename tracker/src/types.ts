/** The categories of the service; it refuses an event with another. */
export type Category =
  | "page_view"
  | "user_action"
  | "trading"
  | "auth"
  | "error"
  | "performance"
  | "feature"
  | "system";

/** If there is no room for all events, those of low priority are dropped first. */
export type Priority = "low" | "medium" | "high" | "critical";

export interface Options {
  /** Where the service takes events, without a slash at its end: `https://host/api/v1/analytics`. */
  url: string;
  /** An access token with the scope write. Whoever sees the page sees it. */
  token: string;
  /** Stored with each event: the name of your page among your clients. */
  clientId?: string;
  /** Whether page views are tracked, also those of a single-page app. True if left out. */
  pageViews?: boolean;
  /** Whether uncaught errors are tracked. */
  errors?: boolean;
  /** Whether LCP, CLS, INP, FCP and TTFB are tracked, in one event a page. */
  vitals?: boolean;
  /** How many events are sent at once, 1 to 100. 20 if left out. */
  batchSize?: number;
  /** How long an event waits for others, in milliseconds. 2000 if left out. */
  flushInterval?: number;
  /** How many bytes of events may wait while the service is away. 1000000 if left out. */
  queueBytes?: number;
  /** Returns what to keep of a page's address: leave out what nobody should see. */
  cleanUrl?: (url: string) => string;
}

export interface EventOptions {
  /** `user_action` if left out. */
  category?: Category;
  /** `medium` if left out; `critical` is sent at once. */
  priority?: Priority;
  /** Whatever JSON can hold. */
  properties?: Record<string, unknown>;
  /** When it happened: a Date, milliseconds since 1970 or what `Date` parses. Now if left out. */
  timestamp?: Date | number | string;
}

export interface Status {
  /** This tab's session. */
  id: string;
  /** The number of its latest event. */
  sequence: number;
  /** The time before which the service wants no request, in milliseconds since 1970. */
  pausedUntil: number;
  /** Events that the service has not acknowledged yet. */
  queued: number;
  /** Events that were given up: refused by the service, or too many while it was away. */
  dropped: number;
}

/** Takes an event. */
export type Track = (name: string, options?: EventOptions) => void;
