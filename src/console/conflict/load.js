// Reads the versions of a document from the server, and writes what ends its conflict.

import * as api from '../api.js';
import { parse, write } from '../json.js';
import { MISSING, UNKNOWN } from './merge.js';
import { bodyOf, commonAncestor, isDeleted, isDeletionOf, pathOf, resolution } from './revisions.js';

/** Versions that are compared at once. A document with more is merged in several rounds. */
export const SIDES = 4;
/** Characters of one answer: a few versions of a document as large as the server takes. */
const MOST = 100_000_000;
/** Tombstones that are looked at: a document that was merged very often has one for each time. */
const TOMBSTONES = 20;

async function read(path, options) {
  return parse(await api.textForPage(path, options, 'Merge this document with another client.', MOST));
}

/** The named leaves with their bodies and paths; a leaf that went away in the meantime is left out. */
async function leaves(path, revs, signal) {
  if (revs.length === 0) return [];
  const rows = await read(path, { query: { open_revs: JSON.stringify(revs), revs: true }, signal });
  return rows.map((row) => row.get('ok')).filter((document) => document !== undefined);
}

/**
 * A document with everything that its merge needs:
 *
 *   sides       the versions to merge, the server's winner first; empty if the document is gone
 *   more        live versions beyond SIDES, which stay for the next round
 *   deletions   tombstones that removed the document while somebody else edited it
 *   records     tombstones of versions that were merged before
 *   ancestor    the common ancestor of the sides: {rev, body}; `body` is UNKNOWN where it was compacted away
 */
export async function load(db, id, { signal } = {}) {
  const path = api.docPath(db, id);
  let winner;
  try {
    winner = await read(path, { query: { conflicts: true, deleted_conflicts: true, revs: true }, signal });
  } catch (error) {
    if (error.status === 404) return { db, id, sides: [], more: 0, deletions: [], records: [], ancestor: null };
    throw error;
  }
  const live = winner.get('_conflicts') ?? [];
  const others = await leaves(path, live.slice(0, SIDES - 1), signal);
  const tombstones = await leaves(path, (winner.get('_deleted_conflicts') ?? []).slice(0, TOMBSTONES), signal);
  const sides = [winner, ...others];
  const deletions = tombstones.filter((leaf) => isDeletionOf(leaf, winner));
  const records = tombstones.filter((leaf) => !deletions.includes(leaf) && leaf.size > 0);
  const compared = sides.length > 1 ? sides : [winner, ...deletions.slice(0, 1)];
  const ancestor = await loadAncestor(path, compared, signal);
  return { db, id, sides, more: live.length - others.length, deletions, records, ancestor };
}

async function loadAncestor(path, compared, signal) {
  const rev = compared.length > 1 ? commonAncestor(compared.map(pathOf)) : null;
  if (rev === null) return { rev: null, body: UNKNOWN, document: null };
  try {
    const document = await read(path, { query: { rev }, signal });
    return { rev, body: isDeleted(document) ? new Map() : bodyOf(document), document };
  } catch (error) {
    if (error.status === 404) return { rev, body: UNKNOWN, document: null };
    throw error;
  }
}

/** The content of an attachment of one version, as base64. */
export async function attachmentAsBase64(db, id, rev, name) {
  const blob = await api.blob(api.attachmentPath(db, id, name), { query: { rev } });
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = '';
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/** What was refused. `changed`: because somebody else has written the document in the meantime. */
export class Refused extends Error {
  constructor(reason, changed) {
    super(reason);
    this.changed = changed;
  }
}

const refused = (rows) => {
  const row = rows.find(({ error }) => error);
  return row ? new Refused(api.inWords(row.reason) || row.error, rows.some(({ error }) => error === 'conflict')) : null;
};

const send = (db, docs) => api.post(`${api.part(db)}/_bulk_docs`, undefined, { text: write(docs) });

async function bulk(db, docs) {
  const error = refused(await send(db, docs));
  if (error) throw error;
}

/** Whether the leaves that somebody saw are still those of the document. */
async function unchanged(db, id, sides) {
  const now = await api.get(api.docPath(db, id), { query: { conflicts: true } });
  const live = new Set([now._rev, ...(now._conflicts ?? [])]);
  return now._rev === sides[0].get('_rev') && sides.every((side) => live.has(side.get('_rev')));
}

/** Whether a design document of the database may refuse the merged document. */
async function validates(db) {
  const answer = await api.get(`${api.part(db)}/_design_docs`, { query: { include_docs: true, limit: 200 } });
  return answer.rows.length >= 200 || answer.rows.some(({ doc }) => doc?.validate_doc_update !== undefined);
}

/**
 * Writes the merged document and closes the other versions, in one request. `body` null deletes the document.
 *
 * The rows of `_bulk_docs` succeed one by one: a version must not be closed when the merged document was refused. Where
 * a validation function may refuse it, it is therefore written before the others are closed; and if it is refused
 * nevertheless (somebody wrote between the check and the request), the versions that were closed are opened again.
 */
export async function save(db, id, sides, body, attachments) {
  if (!(await unchanged(db, id, sides))) throw new Refused('The document has changed.', true);
  const edits = resolution(id, sides, body, attachments).get('docs');
  const parts = (await validates(db)) ? [edits.slice(0, 1), edits.slice(1)] : [edits];
  for (const part of parts) {
    const rows = await send(db, new Map([['docs', part]]));
    const error = refused(rows);
    if (!error) continue;
    if (part.length === edits.length && rows[0].error) await reopen(db, edits, rows);
    throw error;
  }
}

/** Writes the bodies of versions that were closed as their own successors. */
async function reopen(db, edits, rows) {
  const docs = edits.flatMap((edit, at) => {
    if (at === 0 || rows[at].error) return [];
    const again = new Map([...edit, ['_rev', rows[at].rev]]);
    again.delete('_deleted');
    return [again];
  });
  if (docs.length > 0) await bulk(db, new Map([['docs', docs]]));
}

/**
 * Settles a deletion against an edit: the document stays (the deletion gets a tombstone of its own below it, which
 * says that somebody has seen it), or it goes (the edited version becomes a tombstone that keeps its body).
 */
export function settleDeletion(db, { id, sides, deletions }, keep) {
  const [live] = sides;
  if (!keep) return bulk(db, resolution(id, [live], null));
  const docs = deletions.map((leaf) => new Map([['_id', id], ['_rev', leaf.get('_rev')], ['_deleted', true]]));
  return bulk(db, new Map([['docs', docs]]));
}

/** A value for people: indented JSON, or a word where nothing is there. */
export function shown(value) {
  if (value === MISSING) return 'not there';
  if (value === UNKNOWN) return 'unknown';
  return typeof value === 'string' ? value : write(value, 2);
}
