// What <script src="tracker.js"> runs: the package as one global.
import { init, status, track } from "./index";

declare global {
  interface Window {
    tracker: { init: typeof init; track: typeof track; status: typeof status };
  }
}

window.tracker ??= { init, track, status };
