// Who syncs, how far, and what went wrong; and the replications of the server itself.

import { h, pause, put } from '../dom.js';
import { heading } from '../elements/heading.js';
import { ago } from '../format.js';
import { link } from '../router.js';
import { session } from '../session.js';
import { deviceList } from '../sync/device-list.js';
import { overview } from '../sync/overview.js';
import { replicationList } from '../sync/replication-list.js';

export const title = 'Sync';
export const styles = ['styles/lists.css', 'styles/chart.css'];

/** Milliseconds between two looks. */
const EVERY = 5000;

export async function show(main, { tab = 'devices' }, { signal, query }) {
  const replications = tab === 'replications';
  const parts = replications ? replicationParts(signal) : deviceParts(query, signal);
  put(main,
    heading({
      title: 'Sync',
      lead: replications ? 'Copies that the server itself makes, from and to other servers or databases here.' : 'Devices and apps that replicate with this server, as it sees them.',
      actions: replications ? [h('a', { class: 'button primary', href: link('replication', 'new') }, 'New replication')] : [],
      tabs: session.admin ? [
        { label: 'Devices', href: link('sync'), current: !replications },
        { label: 'Replications', href: link('sync', 'replications'), current: replications },
      ] : undefined,
    }),
    ...parts.elements);
  await parts.refresh();
  watch(main, parts.refresh, signal);
}

/** Looks again while the page can be seen. */
async function watch(main, refresh, signal) {
  for (;;) {
    await pause(EVERY, signal);
    if (signal.aborted) return;
    if (document.hidden) continue;
    await refresh();
    for (const time of main.querySelectorAll('time[datetime]')) time.textContent = ago(Date.parse(time.dateTime));
  }
}

function replicationParts(signal) {
  const place = h('div');
  return { elements: [place], refresh: replicationList(place, signal) };
}

function deviceParts(query, signal) {
  const summary = h('div', { class: 'stack' });
  const place = h('div', { class: 'stack' });
  const devices = deviceList(place, { user: query.get('user'), db: query.get('db') }, signal);
  const around = overview(summary, signal);
  return { elements: [summary, place], refresh: () => Promise.all([around(), devices()]) };
}
