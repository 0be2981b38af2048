// One document: reading it without losses, writing it, its revisions.

import * as api from '../api.js';
import { parse, write } from '../json.js';

/** Characters of a document above which the console does not read it, and those above which it does not edit it at once. */
const TOO_LARGE = 40_000_000;
export const LARGE = 1_000_000;

/** Members that describe the revisions and are no part of the document. */
const ABOUT = ['_revs_info', '_conflicts', '_deleted_conflicts', '_revisions', '_local_seq'];

/**
 * Reads a document: `{doc, text, revs, conflicts, length}`. `doc` is a Map, `text` is indented JSON, `revs` are `{rev,
 * status}`, newest first. Throws an `ApiError`; one with status 404 says whether it is deleted.
 */
export async function readDocument(db, id, { rev, signal } = {}) {
  const query = { rev, revs_info: rev ? undefined : true, conflicts: rev ? undefined : true };
  const raw = await api.textUpTo(TOO_LARGE, api.docPath(db, id), { query, signal });
  if (raw === null) throw new api.ApiError(0, 'too_large', 'This document has more than 40 MB, too much for a browser. Read it with curl.');
  const doc = parse(raw);
  const revs = (doc.get('_revs_info') ?? []).map((each) => ({ rev: each.get('rev'), status: each.get('status') }));
  const conflicts = doc.get('_conflicts') ?? [];
  for (const name of ABOUT) doc.delete(name);
  return { doc, revs, conflicts, text: write(doc, 2), length: raw.length };
}

/** The revisions of a deleted document, newest first: `{rev, status}`. */
export async function deletedRevisions(db, id, signal) {
  const answers = await api.get(api.docPath(db, id), { query: { open_revs: 'all', revs: true }, signal });
  const [leaf] = answers.map((each) => each.ok).filter(Boolean).sort((a, b) => b._revisions.start - a._revisions.start);
  if (!leaf) return [];
  const { start, ids } = leaf._revisions;
  return ids.map((each, at) => ({ rev: `${start - at}-${each}`, status: at === 0 ? 'deleted' : 'earlier' }));
}

/** Writes the text of a document; resolves to `{id, rev}`. */
export async function writeText(db, id, text, signal) {
  return (await api.send('PUT', api.docPath(db, id), { text, signal })).json;
}

/**
 * Checks a text before it is sent: returns its Map, or throws an error with `line` and `column` where there are any.
 * `otherId`: what to do about another `_id` than `id`.
 */
export function checkText(text, id, otherId) {
  const doc = parse(text);
  if (!(doc instanceof Map)) throw new SyntaxError('A document is an object: { … }');
  const own = doc.get('_id');
  if (own !== undefined && id !== undefined && own !== id) throw new SyntaxError(`The member _id is “${own}”. ${otherId}`);
  const reserved = [...doc.keys()].find((name) => name.startsWith('_') && !['_id', '_rev', '_deleted', '_attachments', '_revisions'].includes(name));
  if (reserved) throw new SyntaxError(`Names that begin with _ are reserved: “${reserved}”.`);
  return doc;
}

/** The same text with another `_rev`, or with none. */
export function withRev(doc, rev) {
  const rest = [...doc].filter(([name]) => name !== '_id' && name !== '_rev');
  return new Map([...(doc.has('_id') ? [['_id', doc.get('_id')]] : []), ...(rev ? [['_rev', rev]] : []), ...rest]);
}
