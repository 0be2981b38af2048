// One replication of the server: its state, history, retry and cancel. Without an id: the form that makes one.

import { h, pause, put } from '../dom.js';
import { heading } from '../elements/heading.js';
import { failure, loading } from '../elements/states.js';
import { ask } from '../elements/dialog.js';
import { toast } from '../elements/toast.js';
import { count, dateTime, timeAgo } from '../format.js';
import { go, link } from '../router.js';
import { replicationForm } from '../sync/replication-form.js';
import { cancel, cure, endText, read, retry, stateOf } from '../sync/replications.js';

export const title = ({ id }) => id ?? 'New replication';
export const styles = ['styles/lists.css'];

const EVERY = 3000;

export async function show(main, { id }, { signal, query }) {
  const crumbs = [['Sync', link('sync')], ['Replications', link('sync', 'replications')]];
  if (id === undefined) {
    put(main, heading({ title: 'New replication', crumbs }), await replicationForm(query, signal));
    return;
  }
  const body = h('div', { class: 'stack' }, loading('Reading the replication…'));
  const wanted = { id, database: query.get('database') ?? '_replicator', transient: query.get('job') !== null, signal };
  put(main, heading({ title: wanted.transient ? 'One-off replication' : id, crumbs }), body);
  let before = '';
  const refresh = async () => {
    try {
      const job = await read(wanted);
      const now = JSON.stringify(job);
      if (now !== before && !signal.aborted) put(body, ...content(job, refresh));
      before = now;
      return true;
    } catch (error) {
      before = '';
      if (!signal.aborted) put(body, error.status === 404 ? gone() : failure(error, refresh));
      return error.status !== 404;
    }
  };
  if (await refresh()) watch(refresh, signal);
}

async function watch(refresh, signal) {
  for (;;) {
    await pause(EVERY, signal);
    if (signal.aborted) return;
    if (!document.hidden && !(await refresh())) return;
  }
}

function gone() {
  return h('p', { class: 'panel' }, 'This replication is not there any more: it was cancelled, or it was a one-off that has ended. ',
    h('a', { href: link('sync', 'replications') }, 'All replications'));
}

const errorOf = (job) => (typeof job.info?.error === 'string' ? job.info.error : job.history?.find(({ type }) => type === 'crashed')?.reason);

function content(job, refresh) {
  const { word, tone, what } = stateOf(job);
  const error = ['crashing', 'failed', 'error'].includes(job.state) ? errorOf(job) : null;
  return [
    h('section', { class: 'panel', 'aria-label': 'State' },
      h('div', { class: 'row apart' },
        h('p', { role: 'status' }, h('span', { class: `badge ${tone}` }, word), ` ${what}`),
        h('div', { class: 'row' }, job.doc_id ? button('Try again now', () => again(job, refresh)) : null, button('Cancel', () => end(job), 'danger'))),
      error ? h('div', { class: 'notice error' }, h('p', { class: 'break' }, error), h('p', {}, cure(error))) : null,
      h('dl', { class: 'facts' },
        fact('From', endText(job.source)), fact('To', endText(job.target)),
        job.user ? fact('With the rights of', job.user) : null,
        fact('Since', job.start_time ? timeAgo(Date.parse(job.start_time)) : 'not started yet'))),
    numbers(job.info),
    history(job.history ?? []),
  ];
}

const fact = (name, value) => [h('dt', {}, name), h('dd', { class: 'break' }, value)];

function numbers(info) {
  if (info?.docs_written === undefined) return null;
  const rows = [
    ['Documents read', info.docs_read], ['Documents written', info.docs_written], ['Refused by the target', info.doc_write_failures],
    ['Changes to go', info.changes_pending], ['Revisions compared', info.revisions_checked], ['Revisions that were missing', info.missing_revisions_found],
  ];
  return h('section', { class: 'panel', 'aria-label': 'Numbers' }, h('h2', {}, 'What it did'),
    h('dl', { class: 'facts' }, rows.map(([name, value]) => fact(name, count(value)))));
}

const EVENTS = { added: 'was added', started: 'started', stopped: 'stopped to let others run', crashed: 'failed' };

function history(events) {
  if (events.length === 0) return null;
  return h('section', { class: 'panel', 'aria-label': 'History' }, h('h2', {}, 'History'),
    h('ul', { class: 'plain-list lines' }, events.map(({ timestamp, type, reason }) => h('li', {},
      h('span', { class: 'when', title: timestamp }, dateTime(Date.parse(timestamp))),
      h('span', { class: 'grow break' }, EVENTS[type] ?? type, reason ? h('span', { class: 'quiet' }, `: ${reason}`) : null)))));
}

function button(text, action, kind = '') {
  return h('button', { type: 'button', class: kind, onclick: async (event) => {
    const pressed = event.currentTarget;
    pressed.disabled = true;
    try {
      await action();
    } catch (error) {
      toast(error.message, { kind: 'error' });
    }
    pressed.disabled = false;
  } }, text);
}

async function again(job, refresh) {
  await retry(job);
  toast('It begins again.');
  await refresh();
}

async function end(job) {
  const sure = await ask({
    title: 'Cancel this replication?', confirm: 'Cancel the replication',
    body: job.doc_id ? 'Its document is deleted, and it does not start again. What was copied stays.' : 'What was copied stays.',
  });
  if (!sure) return;
  await cancel(job);
  toast('The replication is cancelled.');
  go(link('sync', 'replications'));
}
