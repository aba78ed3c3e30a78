// The chart: events by time, with the categories stacked. uPlot draws it.

import { count, counted, label, time } from "./format.js";

/** In the order in which they are stacked; the style sheet has their colours. */
export const CATEGORIES = ["page_view", "user_action", "trading", "auth", "performance", "feature", "system", "error"];
const HEIGHT = 240;
/** Steps of the axis of counts: whole numbers only. */
const STEPS = Array.from({ length: 15 }, (_, power) => [1, 2, 5].map((n) => n * 10 ** power)).flat();

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A chart in `box`; `readout` shows what is under the cursor. */
export class Chart {
  constructor(box, readout) {
    this.box = box;
    this.readout = readout;
    this.plot = null;
    this.activity = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    box.addEventListener("keydown", (event) => this.step(event));
    box.addEventListener("blur", () => this.plot?.setCursor({ left: -10, top: -10 }));
  }

  size() {
    return { width: Math.max(200, this.box.clientWidth), height: HEIGHT };
  }

  /** Show this answer of /activity. */
  show(activity) {
    const same = this.activity?.span === activity.span;
    this.activity = activity;
    if (same) this.plot.setData(this.data());
    else this.draw();
    this.describe();
  }

  /** The counts of each category, or null. */
  counts() {
    return CATEGORIES.map((category) => this.activity.events_by_category[category] ?? null);
  }

  /** The middles of the buckets, and for each category the sum of it and those below it. */
  data() {
    const { start, bucket_seconds: seconds, span } = this.activity;
    const length = { "1h": 60, "24h": 96 }[span];
    const first = Date.parse(start) / 1000 + seconds / 2;
    this.times = Array.from({ length }, (_, index) => first + index * seconds);
    this.sums = this.times.map(() => 0);
    const stacked = this.counts().map((counts) =>
      this.sums.map((_, index) => {
        if (!counts) return null;
        this.sums[index] += counts[index];
        return this.sums[index];
      }),
    );
    return [this.times, ...stacked.reverse()]; // the highest is drawn first, the others over it
  }

  draw() {
    if (!this.activity) return;
    this.plot?.destroy();
    const data = this.data();
    const seconds = this.activity.bucket_seconds;
    const bars = uPlot.paths.bars({ size: [0.8, 60], align: 0 });
    const axis = { stroke: style("--quiet"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: style("--line"), width: 1 };
    this.plot = new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
        scales: {
          x: { range: (_, min, max) => [min - seconds / 2, max + seconds / 2] },
          y: { range: (_, _min, max) => [0, Math.max(4, max * 1.08)] },
        },
        axes: [
          {
            ...axis,
            size: 28,
            grid: { show: false },
            values: (_, times) => times.map((at) => time(at * 1000, false).slice(-5)),
          },
          {
            ...axis,
            grid,
            size: 48,
            incrs: STEPS,
            values: (_, numbers) => numbers.map(count),
          },
        ],
        series: [
          {},
          ...CATEGORIES.toReversed().map((category) => ({
            fill: style(`--${category}`),
            width: 0,
            paths: bars,
            points: { show: false },
          })),
        ],
        hooks: { setCursor: [() => this.describe()] },
      },
      data,
      this.box,
    );
  }

  /** The bucket under the cursor, or null. */
  get chosen() {
    const { left, idx } = this.plot.cursor;
    return left >= 0 ? (idx ?? null) : null;
  }

  /** The arrow keys, Home and End move the cursor. */
  step(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!move || !this.plot) return;
    event.preventDefault();
    const last = this.times.length - 1;
    const from = this.chosen ?? (move < 0 ? last + 1 : -1);
    const index = Math.min(last, Math.max(0, from + move));
    this.plot.setCursor({ left: this.plot.valToPos(this.times[index], "x"), top: 0 });
  }

  /** Describe the bucket under the cursor, or all of them. */
  describe() {
    const index = this.chosen;
    this.readout.textContent = index === null ? this.summary() : this.bucket(index);
    this.box.setAttribute("aria-valuemax", this.times.length);
    this.box.setAttribute("aria-valuenow", index === null ? 0 : index + 1);
    this.box.setAttribute("aria-valuetext", this.readout.textContent);
  }

  summary() {
    const { total_events: total } = this.activity;
    const highest = Math.max(...this.sums);
    return total
      ? `${counted(total, "event")}, most at ${this.begin(this.sums.indexOf(highest))}: ${count(highest)}`
      : "";
  }

  bucket(index) {
    const parts = this.counts().flatMap((counts, category) =>
      counts?.[index] ? [`${label(CATEGORIES[category])} ${count(counts[index])}`] : [],
    );
    const shown = `${this.begin(index)}: ${counted(this.sums[index], "event")}`;
    return parts.length ? `${shown} – ${parts.join(", ")}` : shown;
  }

  /** When a bucket begins. */
  begin(index) {
    return time(Date.parse(this.activity.start) + index * this.activity.bucket_seconds * 1000, false);
  }
}
