// Pages of a list of documents, walked by id: forwards from a first id, and backwards without counting from the start.

import * as api from '../api.js';
import { parse } from '../json.js';

/** Documents of a page, and what a page may weigh before it is shown without bodies. */
export const SIZE = 50;
const HEAVY = 6_000_000;

/** The last key that begins with the text. */
const ending = (text) => `${text}\uffff`;

/** The range of ids that a search means: `{from, to}`, each may be undefined. */
export function rangeOf(query) {
  const prefix = query.get('search');
  const list = query.get('kind') === 'design';
  const low = prefix || query.get('first') || (list ? '_design/' : undefined);
  const high = prefix ? ending(prefix) : query.get('last') || (list ? '_design0' : undefined);
  return { low, high };
}

/**
 * One page of `_all_docs`: `{rows, total, offset, next, bodies}`. A row is a Map of json.js. `bodies` is false when the
 * documents are too large to be listed with their content.
 */
export async function readPage(db, { low, high, from, signal }) {
  const query = { limit: SIZE + 1, start_key: keyText(from ?? low), end_key: keyText(high) };
  const path = `${api.part(db)}/_all_docs`;
  let text = await api.textUpTo(HEAVY, path, { query: { ...query, include_docs: true }, signal });
  const bodies = text !== null;
  if (!bodies) text = await api.text(path, { query, signal });
  const answer = parse(text);
  const rows = answer.get('rows');
  const next = rows.length > SIZE ? rows.pop().get('id') : null;
  return { rows, next, bodies, total: numberOf(answer.get('total_rows')), offset: numberOf(answer.get('offset')) };
}

/** Null where the server does not count, as the offset far from the start of a large database. */
const numberOf = (value) => (value == null ? null : Number(value.text));

const keyText = (id) => (id === undefined || id === null ? undefined : JSON.stringify(id));

/** The first id of the page before `from`; null: it is the first page. */
export async function previousStart(db, { low, from }) {
  const query = { limit: SIZE + 1, skip: 1, descending: true, start_key: keyText(from), end_key: keyText(low) };
  const { rows } = await api.get(`${api.part(db)}/_all_docs`, { query });
  return rows.length > SIZE ? rows[SIZE - 1].id : null;
}

/** The names of the members that most documents of a page have, at most `most` of them. */
export function commonFields(docs, most = 4) {
  const seen = new Map();
  for (const doc of docs) {
    let taken = 0;
    for (const name of doc.keys()) {
      if (name.startsWith('_')) continue;
      seen.set(name, (seen.get(name) ?? 0) + 1);
      if ((taken += 1) > 60) break;
    }
  }
  return [...seen].sort((a, b) => b[1] - a[1]).slice(0, most).map(([name]) => name);
}
