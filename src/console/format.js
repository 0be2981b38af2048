// Numbers, sizes and times as people read them.

import { h } from './dom.js';

const whole = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

/** 1234567 as "1,234,567". */
export const count = (number) => (number == null ? '–' : whole.format(number));

/** "1 document", "2 documents". */
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

const UNITS = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];
/** 1536 as "1.5 KB". */
export function bytes(number) {
  if (number == null || Number.isNaN(number)) return '–';
  let unit = 0;
  while (number >= 1000 && unit < UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${number >= 100 || unit === 0 ? Math.round(number) : short.format(number)} ${UNITS[unit]}`;
}

const STEPS = [[60, 'second', 1], [3600, 'minute', 60], [86400, 'hour', 3600], [30 * 86400, 'day', 86400],
  [365 * 86400, 'month', 30 * 86400], [Infinity, 'year', 365 * 86400]];
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

/** Milliseconds since 1970 as "5 minutes ago". */
export function ago(ms, now = Date.now()) {
  if (ms == null) return 'never';
  const seconds = Math.round((ms - now) / 1000);
  if (Math.abs(seconds) < 5) return 'just now';
  const [, unit, size] = STEPS.find(([limit]) => Math.abs(seconds) < limit);
  return relative.format(Math.trunc(seconds / size), unit);
}

/** Milliseconds as "1.2 s", "3 min", "2 h". */
export function duration(ms) {
  if (ms == null) return '–';
  if (ms < 1000) return `${short.format(ms)} ms`;
  if (ms < 60_000) return `${short.format(ms / 1000)} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  return `${short.format(ms / 3_600_000)} h`;
}

/** The date and time of milliseconds since 1970, in the zone of the browser. */
export const dateTime = (ms) => (ms == null ? '–' : new Date(ms).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'medium' }));

/** A `<time>` that shows how long ago, and the exact time as its title. */
export function timeAgo(ms) {
  if (ms == null) return h('span', { class: 'quiet' }, 'never');
  return h('time', { datetime: new Date(ms).toISOString(), title: dateTime(ms) }, ago(ms));
}

/** The number at the head of a sequence `N-instance`. */
export const seqNumber = (seq) => Number.parseInt(String(seq ?? '0'), 10) || 0;
