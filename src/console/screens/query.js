// Mango queries: run, explained, with advice for an index.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { databaseHeading } from '../database-tabs.js';
import { advisedFields, indexPanel, makeIndex, planView } from '../documents/indexes.js';
import { exportDocs } from '../documents/export.js';
import { asJson, foundTable } from '../documents/results.js';
import { codeField } from '../elements/code.js';
import { loading, notice } from '../elements/states.js';
import { count, duration } from '../format.js';
import { parse, write } from '../json.js';

export const title = ({ db }) => `Query ${db}`;
export const styles = ['styles/documents.css'];

const BEGIN = `{
  "selector": {
    "_id": { "$gt": null }
  },
  "limit": 50
}`;

/** Documents of an answer that are shown, whatever limit a query has. */
const SHOWN = 500;

/** The last query of each database, kept while the page is open. */
const remembered = new Map();

export async function show(main, { db }, { signal }) {
  const path = api.part(db);
  const area = h('div', { class: 'stack' });
  const indexes = h('div', { class: 'doc-side' });
  const drawIndexes = async () => put(indexes, indexPanel(db, (await api.get(`${path}/_index`, { signal })).indexes, drawIndexes), help());
  const code = codeField({ label: 'Query as JSON', value: remembered.get(db) ?? BEGIN, rows: 8, most: 24, oninput: () => remembered.set(db, code.value), save: () => run() });
  /** The text of the query, checked; null after an error was shown at its place. */
  const asked = () => {
    code.fail();
    try {
      const query = parse(code.value);
      if (!(query instanceof Map)) throw new SyntaxError('A query is an object: { "selector": { … } }');
      return query;
    } catch (error) {
      code.fail(error.message, error.line, error.column);
      return null;
    }
  };
  let stop = new AbortController();
  const sending = async (action) => {
    const query = asked();
    if (!query) return;
    stop.abort();
    stop = new AbortController();
    const inner = AbortSignal.any([signal, stop.signal]);
    put(area, loading('Asking…'), h('div', { class: 'row' }, h('button', { type: 'button', class: 'small', onclick: () => { stop.abort(); put(area); } }, 'Stop')));
    try {
      const shown = await action(query, inner);
      if (!inner.aborted) put(area, shown);
    } catch (error) {
      if (inner.aborted) return;
      put(area);
      code.fail(error.reason ?? error.message);
    }
  };
  const run = (bookmark) => sending((query, inner) => found(db, query, bookmark, inner, { drawIndexes, page: run }));
  const explain = () => sending(async (query, inner) => planView(db, await api.post(`${path}/_explain`, undefined, { text: write(query), signal: inner }), drawIndexes));
  await drawIndexes();
  put(main, databaseHeading(db, 'query'), h('div', { class: 'query-layout' }, h('div', { class: 'stack' }, code,
    h('div', { class: 'row' }, h('button', { type: 'button', class: 'primary', title: 'Ctrl+Enter', onclick: () => run() }, 'Run'), h('button', { type: 'button', onclick: explain }, 'Explain')), area), indexes));
}

/** Sends the query and shows what it found. */
async function found(db, query, bookmark, signal, { drawIndexes, page }) {
  const sent = new Map(query);
  sent.set('execution_stats', true);
  if (typeof bookmark === 'string') sent.set('bookmark', bookmark);
  const text = await api.textForPage(`${api.part(db)}/_find`, { method: 'POST', text: write(sent), signal }, 'Ask for fewer documents ("limit"), or for some members only ("fields").');
  const answer = parse(text);
  const docs = answer.get('docs');
  const stats = answer.get('execution_stats');
  const limit = Number(query.get('limit')?.text ?? 25);
  const next = docs.length > 0 && docs.length >= limit ? answer.get('bookmark') : null;
  const number = (name) => Number(stats?.get(name)?.text ?? NaN);
  return h('div', { class: 'stack' }, await advice(db, query, answer.get('warning'), signal, drawIndexes),
    h('div', { class: 'row apart' }, h('span', { class: 'quiet', role: 'status' }, `${count(docs.length)} found; ${count(number('total_docs_examined'))} documents and ${count(number('total_keys_examined'))} keys read in ${duration(number('execution_time_ms'))}`),
      docs.length > 0 ? h('button', { type: 'button', class: 'small', onclick: () => exportDocs(`${db.replaceAll('/', '_')}-found.jsonl`, docs) }, 'Export these') : null),
    docs.length > SHOWN ? notice('info', h('span', {}, `The first ${count(SHOWN)} are shown. “Export these” has all.`)) : null,
    foundTable(db, docs.slice(0, SHOWN), query.get('fields')?.map?.(String)),
    next ? h('div', { class: 'row' }, h('button', { type: 'button', onclick: () => page(next) }, 'Next page')) : null,
    docs.length > 0 ? h('details', {}, h('summary', {}, 'As JSON'), asJson(docs.slice(0, 50))) : null);
}

/** When the server warns that no index fits: which one would, and a button that makes it. */
async function advice(db, query, warning, signal, drawIndexes) {
  if (!warning) return null;
  const plan = await api.post(`${api.part(db)}/_explain`, undefined, { text: write(query), signal }).catch(() => null);
  const fields = plan ? advisedFields(plan) : [];
  return notice('warning', h('span', {}, /index/i.test(warning) ? 'No index fits, so every document was read. With many documents this is slow.' : warning),
    fields.length > 0 ? h('div', { class: 'row' }, h('button', { type: 'button', class: 'small', onclick: () => makeIndex(db, fields, drawIndexes) }, `Make an index of ${fields.join(', ')}`)) : null);
}

const help = () => h('section', { class: 'panel' }, h('h2', {}, 'Examples'), h('dl', { class: 'stack tight small-text' }, [
  ['Equal', '{"type": "note"}'], ['A range', '{"n": {"$gte": 1, "$lt": 10}}'], ['One of several', '{"tag": {"$in": ["a", "b"]}}'],
  ['In a list', '{"tags": {"$elemMatch": {"$eq": "a"}}}'], ['Is there', '{"due": {"$exists": true}}'], ['Pattern', '{"title": {"$regex": "^Buy"}}'],
].map(([name, text]) => h('div', {}, h('dt', { class: 'quiet' }, name), h('dd', {}, h('code', {}, text))))));
