// What stands above the list of devices: alerts, and the last day as a picture with its events.

import { h, put } from '../dom.js';
import * as api from '../api.js';
import { chart } from '../chart.js';
import { failure } from '../elements/states.js';
import { count, timeAgo } from '../format.js';
import { link } from '../router.js';
import { clientName } from './client-name.js';

/** Milliseconds between two looks at the history, which changes slowly. */
const SLOWLY = 30_000;
const EVENTS = 50;

/** Fills `place` and returns a function that reads it again. */
export function overview(place, signal) {
  const alerts = h('div');
  const day = h('div');
  put(place, alerts, day);
  let read = 0;
  return async () => {
    if (Date.now() - read < SLOWLY) return;
    read = Date.now();
    try {
      const [found, history] = await Promise.all([
        api.get('_sync/alerts', { signal }),
        api.get('_sync/history', { query: { hours: 24 }, signal }),
      ]);
      if (signal.aborted) return;
      put(alerts, alertList(found.alerts));
      if (!day.querySelector('details[open], figure:hover')) put(day, dayCard(history));
    } catch (error) {
      read = 0;
      if (!signal.aborted) put(alerts, failure(error));
    }
  };
}

/** What somebody can do about an alert. */
const ADVICE = {
  device_stopped: (alert) => ['Ask whether the app still runs there. If the device is lost, ', userLink(alert, 'sign it out'), '.'],
  conflicts_grow: (alert) => [h('a', { href: alert.db ? link('conflicts', alert.db) : link('conflicts') }, 'Look at the conflicts'), ' and merge them; if they keep coming, two devices write the same documents.'],
  pushes_refused: (alert) => ['The device sends the same documents again and again. The reasons are in its row below', alert.db ? [', the rules in the design documents of ', h('a', { href: link('db', alert.db, 'design') }, alert.db)] : null, '.'],
  far_behind: () => ['It catches up by itself while it is connected. If it does not, its app may have stopped syncing.'],
  suspicious: (alert) => [h('a', { href: link('server', 'audit', { user: alert.user }) }, 'Look at the audit log'), ', and lock the account or sign its devices out if this was not its user.'],
};

const userLink = (alert, text) => (alert.user ? h('a', { href: link('users', alert.user) }, text) : text);
const WORDS = { critical: 'Act now', warning: 'Look at this', info: 'Good to know' };
const TONES = { critical: 'error', warning: 'warning', info: '' };

function alertList(alerts) {
  if (alerts.length === 0) return null;
  return h('section', { 'aria-label': 'Alerts' }, h('ul', { class: 'plain-list stack tight' }, alerts.slice(0, 20).map((alert) => h('li', { class: `panel alert ${TONES[alert.severity] ?? ''}` },
    h('span', { class: `badge ${TONES[alert.severity] ?? ''}` }, WORDS[alert.severity] ?? alert.severity),
    h('div', { class: 'grow' }, h('p', { class: 'break' }, alert.text, ' ', h('small', { class: 'quiet' }, timeAgo(alert.at))), h('p', { class: 'quiet break' }, alert.client ? `${clientName(alert.client)}. ` : null, ADVICE[alert.kind]?.(alert) ?? null))))));
}

function dayCard({ buckets, step, events }) {
  const to = Date.now();
  const points = (name) => buckets.map((bucket) => ({ at: bucket.at, value: bucket[name] }));
  const sum = (name) => buckets.reduce((total, bucket) => total + bucket[name], 0);
  const picture = chart({
    title: 'Documents synced in the last day', kind: 'bars', from: to - 86_400_000, to, step, format: (value) => count(Math.round(value)),
    now: `${count(sum('documents_received'))} received, ${count(sum('documents_sent'))} sent, ${count(sum('refused'))} refused`,
    series: [
      { name: 'received', tone: 'one', points: points('documents_received') },
      { name: 'sent', tone: 'two', points: points('documents_sent') },
      { name: 'refused', tone: 'bad', points: points('refused') },
    ],
  });
  return h('section', { class: 'panel', 'aria-label': 'The last day' }, picture, events.length > 0 ? eventList(events) : null);
}

const EVENT_WORDS = { first_seen: 'seen for the first time', refused: 'a document was refused', error: 'an error', back: 'is back', suspicious: 'did something unusual' };

function eventList(events) {
  return h('details', {}, h('summary', {}, 'What happened'),
    h('ul', { class: 'plain-list lines' }, events.slice(0, EVENTS).map((event) => h('li', {},
      h('span', { class: 'when' }, timeAgo(event.at)),
      h('span', { class: 'grow break' }, h('b', {}, event.user ?? 'somebody'), event.client ? ` (${clientName(event.client)})` : '', `: ${EVENT_WORDS[event.kind] ?? event.kind}`,
        event.db ? ` in ${event.db}` : '', event.detail ? h('span', { class: 'quiet' }, ` – ${event.detail}`) : null)))));
}
