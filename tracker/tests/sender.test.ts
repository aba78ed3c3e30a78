import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { openQueue } from "../src/queue";
import { startSender } from "../src/sender";
import type { Options } from "../src/types";
import { uuid7 } from "../src/uuid";

const OPTIONS: Options = { url: "https://x/api", token: "t+1", batchSize: 3, flushInterval: 500 };
type Answer = { status?: number; json?: unknown; after?: string };

let answers: (Answer | Error)[];
let requests: { time: number; url: string; init: RequestInit; body: any; names: string[] }[];

/** Answers in turn what `answers` says, then that all is well. */
const respond = async (url: string, init: RequestInit) => {
  const body = JSON.parse(init.body as string);
  const names = body.events.map((event: { event_name: string }) => event.event_name);
  requests.push({ time: Date.now(), url, init, body, names });
  const answer = answers.shift() ?? {};
  if (answer instanceof Error) throw answer;
  const { status = 200, json = { events_received: names.length, events_failed: 0 }, after } = answer;
  return new Response(JSON.stringify(json), { status, headers: after ? { "Retry-After": after } : {} });
};
const fetchFake = vi.fn(respond);

beforeEach(() => {
  localStorage.clear();
  answers = [];
  requests = [];
  fetchFake.mockReset().mockImplementation(respond);
  vi.useFakeTimers({ now: 1_800_000_000_000 });
  vi.stubGlobal("navigator", { sendBeacon: vi.fn(() => true) });
  vi.stubGlobal("fetch", fetchFake);
  vi.stubGlobal(
    "Request",
    class {
      keepalive = true;
      get [Symbol.toStringTag]() {
        return "Request";
      }
    },
  );
  (Request.prototype as any).keepalive = true;
  vi.spyOn(Math, "random").mockReturnValue(0.5);
  vi.spyOn(console, "warn").mockImplementation(() => {});
});
afterEach(() => vi.useRealTimers());

const start = (options: Partial<Options> = {}) => {
  const session = { id: "s", sequence: 0, pausedUntil: 0 };
  const queue = openQueue("tracker x ", 1e6);
  const sender = startSender({ ...OPTIONS, ...options }, queue, session);
  const track = (...names: string[]) => {
    for (const event_name of names) {
      queue.put(uuid7(), JSON.stringify({ event_name }));
      sender.wake();
    }
  };
  return { session, queue, sender, track };
};
const pass = (milliseconds: number) => vi.advanceTimersByTimeAsync(milliseconds);
const sent = () => requests.map((request) => request.names.join(""));
const fault = (place: number, type = "missing") => ({ type, loc: ["body", "events", place, "event_name"], msg: "" });

test("a lone event waits for others, a batch does not", async () => {
  const { track, queue } = start();
  track("a");
  await pass(499);
  expect(sent()).toEqual([]);
  await pass(1);
  expect(sent()).toEqual(["a"]);
  track("b", "c", "d");
  await pass(0);
  expect(sent()).toEqual(["a", "bcd"]);
  expect([queue.items.size, queue.dropped, localStorage.length]).toEqual([0, 0, 0]);
});

test("an urgent event is sent at once, but not in the call", async () => {
  const { track, sender } = start();
  track("a");
  sender.wake(true);
  expect(sent()).toEqual([]);
  await pass(0);
  expect(sent()).toEqual(["a"]);
});

test("a request says who sends, when, and that the good events of a batch are to be kept", async () => {
  const { track } = start({ clientId: "web[]" });
  track("a");
  await pass(500);
  const { url, init, body } = requests[0]!;
  expect(url).toBe("https://x/api/batch");
  expect(init).toMatchObject({
    method: "POST",
    keepalive: true,
    headers: { Authorization: "Bearer t+1", Prefer: "handling=lenient" },
  });
  expect(body).toEqual({ events: [{ event_name: "a" }], client_id: "web[]", sent_at: new Date().toISOString() });
});

test("a client id of another type becomes a string: the service would refuse every batch", async () => {
  const { track } = start({ clientId: 42 as unknown as string });
  track("a");
  await pass(500);
  expect(requests[0]!.body.client_id).toBe("42");
});

test("a request takes a hundred events at most, and the next follows at once", async () => {
  const { track } = start({ batchSize: 1000 });
  track(...Array.from({ length: 250 }, () => "a"));
  await pass(1);
  expect(requests.map((request) => request.names.length)).toEqual([100, 100]);
  await pass(500);
  expect(requests.map((request) => request.names.length)).toEqual([100, 100, 50]);
});

test("no two requests at a time", async () => {
  const { track } = start();
  let answer = (_: Response) => {};
  fetchFake.mockImplementationOnce(
    () =>
      new Promise((resolve) => {
        answer = resolve;
      }),
  );
  track("a", "b", "c");
  await pass(0);
  track("d", "e", "f");
  await pass(10_000);
  expect(sent()).toEqual([]);
  answer(new Response(JSON.stringify({ events_received: 3 })));
  await pass(0);
  expect(sent()).toEqual(["def"]);
});

test.each([
  ["no answer", new TypeError("Failed to fetch")],
  ["500", { status: 500 }],
  ["503", { status: 503 }],
  ["408", { status: 408 }],
  ["429", { status: 429 }],
  ["an answer of something between", { json: { portal: "please log in" } }],
])("%s: the same events again, after ever longer pauses", async (_, answer) => {
  answers = Array.from({ length: 9 }, () => answer);
  const { track, queue } = start();
  track("a");
  await pass(500);
  track("b", "c", "d", "e");
  await pass(250_000);
  const pauses = requests.slice(1).map(({ time }, index) => time - requests[index]!.time);
  expect(pauses.slice(0, 9)).toEqual([1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
  expect(sent().slice(0, 2)).toEqual(["a", "abcde"]);
  expect([queue.items.size, queue.dropped]).toEqual([0, 0]);
});

test("pauses are spread, so that pages do not come back all at once", async () => {
  answers = [new Error(), new Error()];
  const { track } = start();
  track("a");
  vi.mocked(Math.random).mockReturnValueOnce(0).mockReturnValueOnce(0.999);
  await pass(10_000);
  expect(requests[1]!.time - requests[0]!.time).toBe(500);
  expect(requests[2]!.time - requests[1]!.time).toBeCloseTo(2998, 0);
});

test.each([
  ["429", "seconds", 429, "7"],
  ["503", "seconds", 503, "7"],
  ["503", "a date", 503, new Date(1_800_000_007_500).toUTCString()],
])("obeys Retry-After of %s in %s, also for new events and a network that comes back", async (_, __, status, after) => {
  answers = [{ status, after }];
  const { track, sender } = start();
  track("a", "b", "c");
  await pass(0);
  const before = Date.now();
  track("d", "e", "f");
  sender.retry();
  sender.leave();
  await pass(6999);
  expect(sent()).toEqual(["abc"]);
  await pass(1001);
  expect(sent()).toEqual(["abc", "abcdef"]);
  expect(requests[1]!.time).toBeGreaterThanOrEqual(before + 7000);
});

test("obeys Retry-After for events that came while the request was on its way", async () => {
  const { track } = start();
  let answer = (_: Response) => {};
  fetchFake.mockImplementationOnce(
    () =>
      new Promise((resolve) => {
        answer = resolve;
      }),
  );
  track("a", "b", "c");
  await pass(0);
  track("d");
  answer(new Response("", { status: 503, headers: { "Retry-After": "7" } }));
  await pass(6999);
  expect(sent()).toEqual([]);
  await pass(1001);
  expect(sent()).toEqual(["abcd"]);
});

test("does not believe in a Retry-After beyond an hour, nor in one that is nonsense", async () => {
  answers = [
    { status: 503, after: "99999999" },
    { status: 503, after: "soon" },
  ];
  const { track } = start();
  track("a");
  await pass(500);
  await pass(3_600_000 + 500);
  expect(requests.length).toBe(2);
  await pass(2000);
  expect(requests.length).toBe(3);
});

test("events that the service sheds are sent again, those that it refuses are given up", async () => {
  const errors = [fault(0, "shed"), fault(2), fault(2, "extra")];
  answers = [{ json: { events_received: 4, events_failed: 2, errors }, after: "3" }];
  const { track, queue } = start({ batchSize: 4 });
  track("a", "b", "c", "d");
  await pass(2999);
  expect([queue.items.size, queue.dropped, sent()]).toEqual([1, 1, ["abcd"]]);
  await pass(1000);
  expect(sent()).toEqual(["abcd", "a"]);
  expect(console.warn).toHaveBeenCalledOnce();
});

test("events shed without a word on when: with the usual pauses", async () => {
  answers = [{ json: { events_received: 3, errors: [fault(0, "shed")] } }];
  const { track } = start();
  track("a", "b", "c");
  await pass(999);
  expect(sent()).toEqual(["abc"]);
  await pass(1);
  expect(sent()).toEqual(["abc", "a"]);
});

test("422 that names events: without them", async () => {
  answers = [{ status: 422, json: { detail: [fault(1)] } }];
  const { track, queue } = start();
  track("a", "b", "c");
  await pass(500);
  expect(sent().join(" ")).toBe("abc ac");
  expect([queue.items.size, queue.dropped]).toEqual([0, 1]);
});

test.each([
  ["413", { status: 413, json: "Request Entity Too Large" }],
  ["422 that names no event", { status: 422, json: { detail: [{ type: "json_invalid", loc: ["body", 17] }] } }],
])("%s: in halves, until the event at fault is alone; then larger again", async (_, refusal) => {
  const { track, queue } = start({ batchSize: 8 });
  fetchFake.mockImplementation(async (_: string, init: RequestInit) => {
    const names = JSON.parse(init.body as string).events.map((event: any) => event.event_name);
    requests.push({ names } as any);
    const bad = names.includes("f");
    const json = bad ? refusal.json : { events_received: names.length };
    return new Response(JSON.stringify(json), { status: bad ? refusal.status : 200 });
  });
  track(..."abcdefgh");
  await pass(1000);
  expect([queue.items.size, queue.dropped]).toEqual([0, 1]);
  expect(
    requests
      .filter(({ names }) => !names.includes("f"))
      .flatMap(({ names }) => names)
      .join(""),
  ).toBe("abcdegh");
  expect(requests.length).toBeLessThan(12);
});

test.each([401, 403, 404])("%i: nothing for ten minutes, and the events stay", async (status) => {
  answers = [{ status }];
  const { track, queue, sender } = start();
  track("a", "b", "c");
  await pass(0);
  track("d", "e", "f");
  sender.retry();
  sender.leave();
  await pass(599_000);
  expect([sent(), queue.items.size, localStorage.length]).toEqual([["abc"], 6, 6]);
  await pass(1000);
  expect([sent(), queue.items.size, localStorage.length]).toEqual([["abc", "abcdef"], 0, 0]);
});

test("a network that comes back ends a pause", async () => {
  answers = [new Error(), new Error(), new Error(), new Error()];
  const { track, sender } = start();
  track("a");
  await pass(500 + 1000 + 2000 + 4000);
  expect(requests.length).toBe(4);
  sender.retry();
  await pass(0);
  expect(requests.length).toBe(5);
});

test("a page that may end sends all that may outlive it, beside what is on its way", async () => {
  const { track, sender, queue } = start({ batchSize: 1000 });
  fetchFake.mockImplementation((url: string, init: RequestInit) => {
    requests.push({ url, init, names: JSON.parse(init.body as string).events } as any);
    return new Promise(() => {});
  });
  track("x".repeat(10_000));
  await pass(500);
  track(...Array.from({ length: 230 }, () => "y".repeat(300)));
  sender.leave();
  expect(requests.map(({ names }) => names.length).slice(0, 2)).toEqual([1, 100]);
  const bytes = requests.reduce((sum, { init }) => sum + (init.body as string).length, 0);
  expect(bytes).toBeLessThan(65_536);
  expect(bytes).toBeGreaterThan(62_000);
  expect(queue.items.size).toBe(231);
  expect(requests.every(({ init }) => init.keepalive)).toBe(true);
});

test.each([
  [
    "has no keepalive",
    () => {
      delete (Request.prototype as any).keepalive;
    },
  ],
  [
    "refuses it",
    () => {
      answers = [new TypeError("quota")];
    },
  ],
])("where fetch %s a page that may end uses sendBeacon, and keeps the events", async (_, prepare) => {
  prepare();
  const { track, sender, queue } = start();
  track("a", "b");
  sender.leave();
  await pass(0);
  const [url, body] = vi.mocked(navigator.sendBeacon).mock.calls[0]!;
  expect(url).toBe("https://x/api/beacon?token=t%2B1");
  expect(JSON.parse(body as string).events.length).toBe(2);
  expect(queue.items.size).toBe(2);
  await pass(2000);
  expect(sent().at(-1)).toBe("ab");
  expect(queue.items.size).toBe(0);
});

test("a browser without fetch harms nobody", async () => {
  vi.stubGlobal("fetch", undefined);
  const { track, queue } = start();
  track("a", "b", "c");
  await pass(10_000);
  expect(queue.items.size).toBe(3);
});
