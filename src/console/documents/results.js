// Documents and rows that a query returned, as a table or as JSON.

import { h } from '../dom.js';
import { brief, jsonView } from '../elements/json-view.js';
import { dataTable } from '../elements/table.js';
import { link } from '../router.js';
import { commonFields } from './pages.js';

/** A table of documents of `_find`; `fields`, if the query names some, are its columns. */
export function foundTable(db, docs, fields) {
  const names = (fields?.length ? fields : commonFields(docs, 5)).filter((name) => name !== '_id' && name !== '_rev');
  const identified = docs.every((doc) => typeof doc.get('_id') === 'string');
  return dataTable({
    label: 'Documents that match', rows: docs, key: (doc) => doc.get('_id'), href: identified ? (doc) => link('db', db, 'doc', doc.get('_id')) : undefined,
    columns: [...(identified ? [{ label: 'Id', class: 'mono id', cell: (doc) => brief(doc.get('_id'), 120) }] : []),
      ...names.map((name, at) => ({ label: name, class: 'cut', minor: at > 1, cell: (doc) => brief(member(doc, name)) }))],
    none: { title: 'No document matches', text: 'Try fewer conditions. Numbers and strings differ: 1 is not "1".' },
  });
}

/** A member that a path with dots names. */
function member(doc, path) {
  if (doc.has(path)) return doc.get(path);
  return path.split('.').reduce((value, name) => (value instanceof Map ? value.get(name) : undefined), doc);
}

/** A table of rows of a view. */
export const rowTable = (db, rows, options = {}) => dataTable({
  label: 'Rows of the view', rows, key: (row) => row.get('id') ?? JSON.stringify(row.get('key')),
  columns: [{ label: 'Key', class: 'mono id', cell: (row) => brief(row.get('key') ?? null, 120, true) }, { label: 'Value', class: 'mono cut', cell: (row) => brief(row.get('value') ?? null, 200, true) },
    ...(rows.some((row) => row.has('id')) ? [{ label: 'Document', class: 'mono', cell: (row) => h('a', { href: link('db', db, 'doc', row.get('id')) }, brief(row.get('id'), 80)) }] : [])],
  none: { title: 'No rows', text: 'The view has no row in this range.' },
  ...options,
});

/** The answer as it came, to read. */
export const asJson = (value) => h('div', { class: 'panel' }, jsonView(value, { open: 3 }));
