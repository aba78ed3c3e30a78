import { beforeEach, expect, test, vi } from "vitest";
import { leaveSession, openSession } from "../src/session";

const KEY = "tracker https://x ";
beforeEach(() => sessionStorage.clear());

test("goes on where the page before left it", () => {
  const session = openSession(KEY);
  expect(session.sequence).toBe(0);
  leaveSession(KEY, { ...session, sequence: 7, pausedUntil: 5 });
  expect(openSession(KEY)).toEqual({ id: session.id, sequence: 7, pausedUntil: 5 });
});

test("is another one for a copy of a tab whose page is still there", () => {
  leaveSession(KEY, openSession(KEY));
  const original = openSession(KEY);
  expect(openSession(KEY).id).not.toBe(original.id); // the copy's sessionStorage is what the original's is now
});

test("is a new one where storage is forbidden or holds something else", () => {
  sessionStorage.setItem(KEY, "{");
  expect(openSession(KEY).sequence).toBe(0);
  vi.stubGlobal("sessionStorage", undefined);
  const session = openSession(KEY);
  leaveSession(KEY, session);
  expect(openSession(KEY).id).not.toBe(session.id);
});
