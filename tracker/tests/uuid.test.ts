// @vitest-environment node
import { expect, test, vi } from "vitest";
import { uuid7 } from "../src/uuid";

const FORM = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/;

test("is a UUID of version 7 with the time in front", () => {
  vi.spyOn(Date, "now").mockReturnValue(0x019a_b2c3_d4e5);
  expect(uuid7()).toMatch(FORM);
  expect(uuid7()).toMatch(/^019ab2c3-d4e5-7/);
});

test("is another one each time, also within a millisecond", () => {
  vi.spyOn(Date, "now").mockReturnValue(0);
  expect(new Set(Array.from({ length: 1000 }, uuid7)).size).toBe(1000);
});

test("does without crypto", () => {
  vi.stubGlobal("crypto", undefined);
  expect(uuid7()).toMatch(FORM);
  expect(uuid7()).not.toBe(uuid7());
});
