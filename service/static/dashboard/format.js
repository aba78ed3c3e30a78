// Values as people read them.

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const BYTES = ["bytes", "kB", "MB", "GB", "TB", "PB"];

/** 12,345; ten million and more as 12.3M. */
export function count(number) {
  return number < 1e7 ? whole.format(number) : compact.format(number);
}

/** A number with its noun: 1 event, 2 events. */
export function counted(number, noun, nouns = `${noun}s`) {
  return `${count(number)} ${number === 1 ? noun : nouns}`;
}

/** A share as 12 %; only nothing is 0 %. */
export function percent(share) {
  const value = share * 100;
  return value > 0 && value < 0.1 ? "< 0.1 %" : `${value.toFixed(value > 0 && value < 10 ? 1 : 0)} %`;
}

/** Bytes in powers of a thousand. */
export function bytes(number) {
  const power = Math.min(BYTES.length - 1, number < 1 ? 0 : Math.floor(Math.log10(number) / 3));
  const value = number / 1000 ** power;
  return `${power && value < 100 ? value.toFixed(1) : Math.round(value)} ${BYTES[power]}`;
}

/** A measured duration, in its two largest units. */
export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : age(seconds);
}

/** How old something is, in whole seconds or larger units. */
export function age(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The time of day by the viewer's clock; with the date if it is not today. */
export function time(value, seconds = true) {
  const date = new Date(value);
  const parts = [date.getHours(), date.getMinutes(), ...(seconds ? [date.getSeconds()] : [])];
  const clock = parts.map((part) => String(part).padStart(2, "0")).join(":");
  if (date.toDateString() === new Date().toDateString()) return clock;
  return `${date.toLocaleDateString("en", { day: "numeric", month: "short" })} ${clock}`;
}

/** page_view as page view. */
export function label(name) {
  return name.replaceAll("_", " ");
}
