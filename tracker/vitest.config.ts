import { defineConfig } from "vitest/config";

export default defineConfig({
  test: { environment: "happy-dom", pool: "threads", testTimeout: 20_000, restoreMocks: true, unstubGlobals: true },
});
