// Puts answers of the service on the page. Text always goes in as text, never as HTML.

import { CATEGORIES } from "./chart.js";
import { age, bytes, count, counted, duration, label, percent, time } from "./format.js";

/** More would hide what is below; the service remembers up to a hundred. */
const REFUSALS_SHOWN = 12;

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; strings are text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Put `text` into `node` if it changed: unchanged text is neither drawn nor read out again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function tile(id, value, note, state = "ok") {
  const box = byId(`tile-${id}`);
  box.dataset.state = state;
  say(box.querySelector(".value"), value);
  say(box.querySelector(".quiet"), note);
}

/** What is on its way to the table. */
export function showPipeline(pipeline) {
  const { events_pending: pending, spool, acknowledged_to_visible: latency, last_flush: flushed } = pipeline;
  const oldest = pipeline.oldest_pending_seconds;
  tile(
    "pending",
    count(pending),
    pending ? `the oldest for ${age(oldest)}` : "all are in the table",
    oldest > 60 ? "warn" : "ok",
  );
  if (latency.batches) {
    const of = `${counted(latency.batches, "batch", "batches")} in ${latency.window_seconds / 60} min`;
    tile("latency", duration(latency.p50_seconds), `median; p99 ${duration(latency.p99_seconds)}, ${of}`);
  } else tile("latency", "–", `no batch in the last ${latency.window_seconds / 60} minutes`);
  if (flushed) {
    const ago = (Date.parse(pipeline.as_of) - Date.parse(flushed)) / 1000; // both by the service's clock
    tile("flush", ago < 1 ? "just now" : `${age(ago)} ago`, `at ${time(flushed)}`);
  } else tile("flush", "never", "nothing has been inserted yet");
  const fill = spool.bytes / spool.max_bytes;
  tile(
    "spool",
    percent(fill),
    `${bytes(spool.bytes)} of ${bytes(spool.max_bytes)}`,
    fill >= 0.8 ? "bad" : fill >= 0.5 ? "warn" : "ok",
  );
}

/** What the service says of itself. */
export function showHealth(health) {
  const { events, files } = health.quarantine;
  tile(
    "quarantine",
    count(events),
    files ? counted(files, "damaged file") : "no damaged files",
    events || files ? "bad" : "ok",
  );
  const pill = byId("health-pill");
  pill.dataset.state = { ok: "ok", degraded: "warn", failing: "bad" }[health.status];
  say(pill, health.status);
  document.title = health.status === "ok" ? "Analytics" : `${health.status} – Analytics`;
  const { workers } = health;
  byId("health").replaceChildren(
    ...[
      ["Spool", part(health.spool)],
      ["ClickHouse", part(health.clickhouse)],
      [
        "Quarantine",
        events || files
          ? `${counted(events, "event")}, ${counted(files, "damaged file")}, ${bytes(health.quarantine.bytes)}`
          : "empty",
      ],
      ...(workers
        ? [
            [
              "Workers",
              `${workers.answering} answer${workers.silent.length ? `; silent: ${workers.silent.join(", ")}` : ""}`,
            ],
          ]
        : []),
      ["Up for", age(health.uptime_seconds)],
      ["Version", health.version],
    ].map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

function part({ ok, since, reason }) {
  const state = element("span", { class: "pill", "data-state": ok ? "ok" : "bad" }, ok ? "ok" : "not ok");
  return element("span", {}, state, ` since ${time(since)}${reason ? `: ${reason}` : ""}`);
}

/** The most recent refusals. */
export function showRefusals({ refusals }) {
  const items = refusals.slice(0, REFUSALS_SHOWN).map(refusal);
  const more = refusals.length - items.length;
  if (!refusals.length)
    items.push(element("li", { class: "quiet" }, "Nothing has been refused since the service started."));
  if (more > 0)
    items.push(element("li", { class: "quiet" }, `${counted(more, "other kind")}: see /refusals of the API.`));
  byId("refusals").replaceChildren(...items);
}

function refusal({ method, route, status, reason, token, count: times, last_at: last }) {
  const when = times > 1 ? `${counted(times, "time")}, the last at ${time(last)}` : `at ${time(last)}`;
  const from = token ? `token ${token}` : "no known token";
  return element(
    "li",
    {},
    element("span", { class: "pill", "data-state": status >= 500 ? "bad" : "warn" }, String(status)),
    element("span", {}, reason),
    element("span", { class: "quiet" }, `${method} ${route} · ${from} · ${when}`),
  );
}

const EVENTS_OF = { "1h": "Events, last hour", "24h": "Events, last 24 hours" };
const CHART_OF = { "1h": "Events per minute", "24h": "Events per 15 minutes" };

function nameSpan(span, known) {
  say(byId("tile-events").querySelector("dt"), EVENTS_OF[span]);
  say(byId("chart-title"), CHART_OF[span]);
  for (const id of ["chart", "readout", "chart-table"]) byId(id).hidden = !known;
  byId("unavailable").hidden = known;
}

/** Say that nothing is known of the span: an empty chart would look like no events. */
export function showNoCounts(span, why) {
  nameSpan(span, false);
  byId("empty").hidden = true;
  const text = `Can't be shown: ${why}.`;
  say(byId("unavailable"), text);
  tile("events", "–", text);
  for (const id of ["categories", "names"]) note(id, text);
}

function note(id, text) {
  const cell = element("td", { class: "quiet", colspan: 3 }, text);
  byId(id).tBodies[0].replaceChildren(element("tr", {}, cell));
}

/** The counts of the span, beside the chart. */
export function showCounts(activity) {
  const { events_by_category: byCategory, total_events: total, bucket_seconds: seconds } = activity;
  const lengths = { 60: "minute", 900: "quarter of an hour" };
  const whole = Object.values(byCategory).reduce((sum, counts) => sum + counts.at(-2), 0);
  tile("events", count(total), `${count(whole)} in the last whole ${lengths[seconds]}`);
  nameSpan(activity.span, true);
  byId("empty").hidden = total > 0;
  const categories = CATEGORIES.filter((category) => byCategory[category])
    .map((category) => [label(category), byCategory[category].reduce((sum, one) => sum + one, 0), category])
    .sort((a, b) => b[1] - a[1]);
  bars("categories", categories, total);
  bars(
    "names",
    activity.top_names.map((one) => [one.event_name, one.events]),
    total,
  );
  table(
    activity,
    categories.map(([, , category]) => category),
  );
}

function bars(id, rows, total) {
  const body = byId(id).tBodies[0];
  if (!rows.length) {
    note(id, "No events in this span.");
    return;
  }
  body.replaceChildren(
    ...rows.map(([name, number, category]) => {
      const meter = element("span", { class: "bar" });
      meter.style.setProperty("--share", `${(100 * number) / rows[0][1]}%`);
      if (category) meter.style.setProperty("--colour", `var(--${category})`);
      return element(
        "tr",
        {},
        element("th", { scope: "row" }, element("span", { class: "name", title: name }, name), meter),
        element("td", {}, percent(number / total)),
        element("td", {}, count(number)),
      );
    }),
  );
}

/** The chart as a table, for those who can't see it; the latest first. Filled when it is opened. */
function table(activity, categories) {
  const details = byId("chart-table");
  const fill = () => {
    if (!details.open) return;
    const head = ["From", "Events", ...categories.map(label)].map((name) => element("th", { scope: "col" }, name));
    const length = Object.values(activity.events_by_category)[0]?.length ?? 0;
    const rows = Array.from({ length }, (_, index) => {
      const counts = categories.map((category) => activity.events_by_category[category][index]);
      const at = Date.parse(activity.start) + index * activity.bucket_seconds * 1000;
      const cells = [counts.reduce((sum, one) => sum + one, 0), ...counts].map((one) => element("td", {}, count(one)));
      return element("tr", {}, element("th", { scope: "row" }, time(at, false)), ...cells);
    });
    details
      .querySelector(".scroll")
      .replaceChildren(
        element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows.reverse())),
      );
  };
  details.ontoggle = fill;
  fill();
}
