// Builds both forms of the tracker: `tracker.js` for <script>, `index.js` for import. The first argument is a folder.
import { build } from "rolldown";

const [folder = "dist"] = process.argv.slice(2);
const common = { platform: "browser", transform: { target: "es2021" } };

await build({
  ...common,
  input: { tracker: "src/script.ts" },
  output: {
    dir: folder,
    format: "iife",
    comments: false,
    // Names that only our own objects have, none that the DOM, JSON or a page sees.
    minify: {
      mangleProps: { include: /^(items|key|text|bytes|rank|sending|put|adopt|take|wake|retry|leave|remove)$/ },
    },
  },
});
await build({ ...common, input: { index: "src/index.ts" }, output: { dir: folder, format: "esm" } });
