// The replications of the server itself.

import { h, pause, put } from '../dom.js';
import { heading } from '../elements/heading.js';
import { ago } from '../format.js';
import { link } from '../router.js';
import { replicationList } from '../sync/replication-list.js';

export const title = 'Replications';
export const styles = ['styles/lists.css'];

/** Milliseconds between two looks. */
const EVERY = 5000;

export async function show(main, params, { signal }) {
  const place = h('div');
  const refresh = replicationList(place, signal);
  put(main,
    heading({
      title: 'Replications',
      lead: 'Copies that the server itself makes, from and to other servers or databases here.',
      actions: [h('a', { class: 'button primary', href: link('replication', 'new') }, 'New replication')],
    }),
    place);
  await refresh();
  watch(main, refresh, signal);
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
