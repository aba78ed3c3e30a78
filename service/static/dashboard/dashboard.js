// The page: asks for a token, then polls the service, and says what it can't find out.

import { Chart } from "./chart.js";
import { age, time } from "./format.js";
import { byId, say, showCounts, showHealth, showNoCounts, showPipeline, showRefusals } from "./panels.js";
import { ask, eventsAddress, TokenRefused, token, Unreachable } from "./service.js";

const EVERY = 5_000;
/** Pauses after failures: short at first, then longer and longer. */
const FIRST_PAUSE = 1_000,
  LONGEST_PAUSE = 30_000;
/** What is older than this is marked. */
const STALE_AFTER = 20_000;

const chart = new Chart(byId("chart"), byId("readout"));
let timer = 0;
let round = new AbortController();
let failures = 0;
let nextAt = 0;
let seenAt = 0; // when the service last answered

let shownSpan = ""; // the span whose events are shown; empty if nothing is known

function showActivity(activity) {
  shownSpan = activity.span;
  showCounts(activity);
  chart.show(activity);
}

const span = () => document.querySelector("[name=span]:checked").value;

function signIn(fault = "") {
  stop();
  token.forget();
  shownSpan = "";
  byId("dashboard").hidden = true;
  byId("sign-in").hidden = false;
  say(byId("token-fault"), fault);
  byId("token").toggleAttribute("aria-invalid", Boolean(fault));
  byId("token").value = "";
  byId("token").focus();
}

function stop() {
  clearTimeout(timer);
  round.abort();
}

/** Ask for everything at once; then again after a pause, unless the page is hidden. */
async function poll() {
  stop();
  if (document.hidden || !token.get()) return;
  round = new AbortController();
  const { signal } = round;
  const asked = span();
  const questions = { "/pipeline": showPipeline, "/health": showHealth, "/refusals": showRefusals };
  questions[`/activity?span=${asked}`] = showActivity;
  const answers = await Promise.allSettled(Object.keys(questions).map((path) => ask(path, signal)));
  if (signal.aborted) return;
  const failed = answers.flatMap(({ reason }) => reason ?? []);
  const refused = failed.find((error) => error instanceof TokenRefused);
  if (refused) {
    signIn(`The service says: ${refused.message}.`);
    return;
  }
  byId("sign-in").hidden = true;
  byId("dashboard").hidden = false;
  try {
    for (const [index, show] of Object.values(questions).entries()) {
      if (answers[index].value) show(answers[index].value);
    }
    if (failed.length && shownSpan !== asked) {
      shownSpan = "";
      showNoCounts(asked, answers.at(-1).reason?.message ?? failed[0].message);
    }
  } finally {
    finishRound(failed); // an error of the page must not end the polling
  }
}

function finishRound(failed) {
  const unreachable = failed.find((error) => error instanceof Unreachable);
  failures = unreachable ? failures + 1 : 0;
  if (!unreachable) seenAt = Date.now();
  const pause = failures ? Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1)) : EVERY;
  nextAt = Date.now() + pause;
  const rest = shownSpan ? "what is shown is older" : "events can't be shown until it does";
  const note = !unreachable && failed.length ? `${failed[0].message}: ${rest}.` : "";
  say(byId("notice"), unreachable ? "The service does not answer. The page shows its last answer." : note);
  byId("notice").dataset.state = unreachable ? "bad" : note ? "warn" : "";
  if (unreachable) {
    byId("health-pill").dataset.state = "unknown";
    say(byId("health-pill"), "unknown");
    document.title = "no answer – Analytics";
  }
  byId("dashboard").classList.toggle("stale", Boolean(unreachable));
  tick();
  timer = setTimeout(poll, pause);
}

/** Update what changes with time alone. */
function tick() {
  if (byId("dashboard").hidden) return;
  const old = Date.now() - seenAt;
  const parts = [seenAt ? `As of ${time(seenAt)}` : "No answer yet"];
  if (seenAt && old > STALE_AFTER) parts.push(`${age(old / 1000)} ago`);
  if (failures) parts.push(`next try in ${age((nextAt - Date.now()) / 1000)}`);
  say(byId("updated"), parts.join(", "));
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("token").value.trim();
  if (!/^[!-~]+$/.test(given))
    return signIn("An access token has only ASCII letters, digits and signs, and no spaces.");
  token.set(given);
  say(byId("token-fault"), "");
  poll();
});
byId("sign-out").addEventListener("click", () => signIn());
for (const radio of document.getElementsByName("span")) radio.addEventListener("change", poll);
document.addEventListener("visibilitychange", poll);
addEventListener("online", poll);
setInterval(tick, 1_000);
say(
  byId("empty-command"),
  `curl ${eventsAddress} -H "Authorization: Bearer $WRITE" -d '{"event_name": "hello", "category": "feature"}'`,
);

if (token.get()) poll();
else signIn();
