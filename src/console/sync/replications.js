// Replications of the server: what runs, what waits, what failed, and how to begin and end one.

import * as api from '../api.js';
import { parse, write } from '../json.js';

/** States in words, and how good they are. */
export const STATES = {
  initializing: { word: 'starting', tone: '', what: 'The document was read; the replication begins in a moment.' },
  error: { word: 'cannot start', tone: 'error', what: 'The source could not be asked, usually for its filter. It is tried again, later and later.' },
  pending: { word: 'waiting', tone: '', what: 'Others run now (replicator/max_jobs); its turn comes.' },
  running: { word: 'running', tone: 'good', what: 'It copies, or waits for changes.' },
  crashing: { word: 'failing', tone: 'error', what: 'It failed, and is tried again: after 30 seconds, then after twice as long each time.' },
  completed: { word: 'completed', tone: 'good', what: 'Everything was copied.' },
  failed: { word: 'failed', tone: 'error', what: 'It cannot run as it is written. Mend it and try again.' },
};

export const stateOf = (job) => STATES[job.state] ?? { word: job.state ?? 'unknown', tone: '', what: '' };

/** All replications: those of documents, and those of `_replicate` (without `doc_id`). */
export async function listAll({ signal } = {}) {
  const [docs, jobs] = await Promise.all([
    api.get('_scheduler/docs', { query: { limit: 500 }, signal }),
    api.get('_scheduler/jobs', { query: { limit: 500 }, signal }),
  ]);
  const byId = new Map(jobs.jobs.map((job) => [job.id, job]));
  const rows = docs.docs.map((doc) => ({ ...doc, user: byId.get(doc.id)?.user, history: byId.get(doc.id)?.history ?? [] }));
  for (const job of jobs.jobs) {
    const shown = rows.some((row) => row.id === job.id);
    if (!shown && !job.doc_id) rows.push({ ...job, doc_id: null, state: transientState(job), last_updated: job.history?.[0]?.timestamp });
  }
  return { rows, total: docs.total_rows };
}

function transientState(job) {
  if (job.pid) return 'running';
  return job.history?.[0]?.type === 'crashed' ? 'crashing' : 'pending';
}

/** One replication: of a document of `database`, or the one with the id of the scheduler. */
export async function read({ database = '_replicator', id, transient, signal }) {
  if (transient) {
    const job = await api.get(`_scheduler/jobs/${api.part(id)}`, { signal });
    return { ...job, doc_id: null, state: transientState(job) };
  }
  const shown = await api.get(`_scheduler/docs/${api.part(database)}/${api.part(id)}`, { signal });
  const job = shown.id ? await api.getOrNull(`_scheduler/jobs/${api.part(shown.id)}`, { signal }) : null;
  return { ...shown, user: job?.user, history: job?.history ?? [] };
}

/** An end of a replication for people: without password. */
export function endText(end) {
  if (end === null || end === undefined) return 'unknown';
  if (typeof end === 'object') return endText(end.url);
  return end.replace(/^(https?:\/\/)[^/@]*@/, '$1').replace(/\/$/, '');
}

/** Begins again: the document without the members that say how the last try ended. */
export async function retry({ database, doc_id: id }) {
  const path = api.docPath(database, id);
  const doc = parse(await api.text(path));
  for (const name of [...doc.keys()]) if (name.startsWith('_replication_')) doc.delete(name);
  return api.send('PUT', path, { text: write(doc) });
}

/** Ends a replication: its document goes, or the job of `_replicate` is cancelled. What was copied stays. */
export async function cancel({ database, doc_id: id, id: job }) {
  if (!id) return api.post('_replicate', { cancel: true, replication_id: job });
  const path = api.docPath(database, id);
  const { _rev: rev } = await api.get(path);
  return api.del(path, { query: { rev } });
}

/** Writes the document of a replication; resolves to its id. */
export async function create(id, document) {
  if (!id) return (await api.post('_replicator', document)).id;
  return (await api.putJson(api.docPath('_replicator', id), document)).id;
}

/**
 * Tries one end: a replication from it to itself, of a document that nobody has, without checkpoints. It opens the
 * database with the given credentials and writes nothing.
 */
export async function testEnd(end) {
  const probe = { doc_ids: ['settee-connection-test'], use_checkpoints: false, retries_per_request: 1, connection_timeout: 10_000 };
  try {
    await api.post('_replicate', { source: end, target: end, ...probe });
    return { ok: true };
  } catch (error) {
    return { ok: false, missing: error.error === 'db_not_found', error: error.error, reason: error.reason };
  }
}

/** What to do about an error of a replication; '' where its own text says it. */
export function cure(text) {
  const cures = [
    [/^db_not_found/, 'The database is not there, or its address is wrong. The target can be created: tick "Create the target".'],
    [/^unauthorized/, 'The user or the password of this end is wrong, or there is none. For a database here: the user who wrote the replication has no account or rights any more.'],
    [/^forbidden/, 'This user may not read the source, or may not write to the target.'],
    [/^address_not_allowed/, 'Allow addresses of the private network with the setting replicator/allow_private, if you trust everybody who may replicate. A database of this server needs only its name.'],
    [/^connection_failed/, 'The other server is down, its name is wrong, or its certificate is not trusted (settee/ca_file).'],
    [/^filter_fetch_error/, 'The design document with the filter is not in the source.'],
    [/^checkpoint_commit_failure/, 'The user may not write to one of the ends: checkpoints are documents there.'],
  ];
  return cures.find(([pattern]) => pattern.test(text ?? ''))?.[1] ?? '';
}
