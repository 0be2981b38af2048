// _all_docs, _design_docs and _local_docs with their query parameters: CouchDB docs
// `api/database/bulk-api.rst`.

import { suite, it, assert } from '../harness/rows.js';

const ids = (answer) => answer.json.rows.map((row) => row.id ?? row.key);
const given = (...expected) => (answer) => assert.deepEqual(ids(answer), expected);
const q = (value) => encodeURIComponent(JSON.stringify(value));

async function fill(api, { db }) {
  const rows = await api.ok(`POST /${db}/_bulk_docs`, {
    body: { docs: [{ _id: 'a', n: 1 }, { _id: 'b', n: 2 }, { _id: 'c', n: 3 }, { _id: 'd', n: 4 }, { _id: '_design/x', language: 'query' }, { _id: '_design/y', language: 'query' }] },
  });
  const gone = rows[3];
  await api.ok(`DELETE /${db}/d?rev=${gone.rev}`);
  await api.ok(`PUT /${db}/_local/l1`, { body: { l: 1 } });
  await api.ok(`PUT /${db}/_local/l2`, { body: { l: 2 } });
  return { a: rows[0].rev };
}

suite('all documents', (api) => {
  const prepare = (words) => fill(api, words);
  const bad = (name, query, word = 'query_parse_error') => ({ name, req: `GET /{db}/_all_docs?${query}`, status: 400, error: word });

  api.rows('_all_docs', [
    {
      name: 'all documents in order, without deleted ones',
      req: 'GET /{db}/_all_docs',
      status: 200,
      keys: ['offset', 'rows', 'total_rows'],
      like: { total_rows: 5, offset: 0, rows: [{ id: '_design/x' }, { id: '_design/y' }, { id: 'a', key: 'a', value: { rev: /^1-/ }, doc: undefined }, { id: 'b' }, { id: 'c' }] },
    },
    { name: 'HEAD', req: 'HEAD /{db}/_all_docs', status: 200, text: '' },
    { name: 'limit and skip', req: 'GET /{db}/_all_docs?limit=2&skip=2', status: 200, check: given('a', 'b'), like: { total_rows: 5, offset: 2 } },
    { name: 'limit=0', req: 'GET /{db}/_all_docs?limit=0', status: 200, like: { total_rows: 5, rows: [] } },
    { name: 'descending', req: 'GET /{db}/_all_docs?descending=true', status: 200, check: given('c', 'b', 'a', '_design/y', '_design/x') },
    { name: 'a range', req: `GET /{db}/_all_docs?startkey=${q('a')}&endkey=${q('b')}`, status: 200, check: given('a', 'b') },
    { name: 'a range by start_key and end_key', req: `GET /{db}/_all_docs?start_key=${q('b')}&end_key=${q('c')}`, status: 200, check: given('b', 'c') },
    { name: 'inclusive_end=false', req: `GET /{db}/_all_docs?startkey=${q('a')}&endkey=${q('c')}&inclusive_end=false`, status: 200, check: given('a', 'b') },
    { name: 'descending range', req: `GET /{db}/_all_docs?startkey=${q('c')}&endkey=${q('b')}&descending=true`, status: 200, check: given('c', 'b') },
    { name: 'a reversed range is empty', req: `GET /{db}/_all_docs?startkey=${q('c')}&endkey=${q('a')}`, status: 200, like: { rows: [] } },
    { name: 'key', req: `GET /{db}/_all_docs?key=${q('b')}`, status: 200, check: given('b') },
    { name: 'key and then end_key: the last one wins', req: `GET /{db}/_all_docs?key=${q('a')}&end_key=${q('b')}`, status: 200, check: given('a', 'b') },
    { name: 'end_key and then key', req: `GET /{db}/_all_docs?end_key=${q('c')}&key=${q('a')}`, status: 200, check: given('a') },
    { name: 'key with inclusive_end=false', req: `GET /{db}/_all_docs?key=${q('b')}&inclusive_end=false`, status: 200, like: { rows: [] } },
    { name: '; separates parameters', req: 'GET /{db}/_all_docs?limit=1;skip=2', status: 200, check: given('a') },
    { name: 'an escaped ; does not', req: `GET /{db}/_all_docs?key=${q('a;b')};limit=1`, status: 200, like: { rows: [] } },
    { name: 'a missing key', req: `GET /{db}/_all_docs?key=${q('bb')}`, status: 200, like: { rows: [] } },
    { name: 'include_docs', req: `GET /{db}/_all_docs?include_docs=true&key=${q('b')}`, status: 200, like: { rows: [{ doc: { _id: 'b', _rev: String, n: 2 } }] } },
    { name: 'update_seq', req: 'GET /{db}/_all_docs?update_seq=true&limit=0', status: 200, like: { update_seq: /^7/ } },
    {
      name: 'keys in the requested order, with missing and deleted ones marked',
      req: `GET /{db}/_all_docs?keys=${q(['c', 'none', 'd', 'a', 'a'])}`,
      status: 200,
      like: {
        total_rows: 5,
        rows: [
          { id: 'c', key: 'c', value: { rev: String } },
          { key: 'none', error: 'not_found', id: undefined },
          { id: 'd', key: 'd', value: { rev: /^2-/, deleted: true } },
          { id: 'a' },
          { id: 'a' },
        ],
      },
    },
    { name: 'POST keys with documents, null for the deleted', req: 'POST /{db}/_all_docs?include_docs=true', body: { keys: ['a', 'd'] }, status: 200, like: { rows: [{ doc: { n: 1 } }, { doc: null, value: { deleted: true } }] } },
    { name: 'POST keys with limit and skip', req: 'POST /{db}/_all_docs', body: { keys: ['a', 'b', 'c'], limit: 1, skip: 1 }, status: 200, check: given('b') },
    { name: 'POST keys descending', req: 'POST /{db}/_all_docs', body: { keys: ['a', 'b', 'c'], descending: true }, status: 200, check: given('c', 'b', 'a') },
    { name: 'POST no keys', req: 'POST /{db}/_all_docs', body: { keys: [] }, status: 200, like: { rows: [] } },
    { name: 'POST with parameters in the body', req: 'POST /{db}/_all_docs', body: { startkey: 'b', include_docs: true, limit: 1 }, status: 200, like: { rows: [{ id: 'b', doc: { n: 2 } }] } },
    { name: 'a parameter in the URL overrides the body', req: 'POST /{db}/_all_docs?limit=0', body: { limit: 2 }, status: 200, like: { rows: [] } },
    { name: 'POST keys of the wrong type', req: 'POST /{db}/_all_docs', body: { keys: 'a' }, status: 400, error: 'bad_request', reason: '`keys` body member must be an array.' },
    { name: 'GET keys of the wrong type', req: 'GET /{db}/_all_docs?keys=%22a%22', status: 400, error: 'bad_request', reason: '`keys` parameter must be an array.' },
    { name: 'POST without a content type', req: 'POST /{db}/_all_docs', body: '{}', status: 415, error: 'bad_content_type' },
    bad('limit that is not a number', 'limit=x'),
    bad('negative limit', 'limit=-1'),
    bad('negative skip', 'skip=-1'),
    bad('an invalid boolean', 'descending=maybe'),
    bad('an invalid include_docs', 'include_docs=1'),
    bad('key that is not JSON', 'key=a', 'bad_request'),
    bad('startkey that is not JSON', 'startkey=%7B', 'bad_request'),
    bad('stale', 'stale=maybe'),
    bad('update', 'update=maybe'),
    { name: 'a key that is not a string matches nothing', req: 'GET /{db}/_all_docs?key=5', status: 200, like: { rows: [] } },
    { name: 'an unknown parameter is ignored', req: 'GET /{db}/_all_docs?what=1', status: 200, like: { total_rows: 5 } },
    { name: 'PUT', req: 'PUT /{db}/_all_docs', body: {}, status: 405, error: 'method_not_allowed', headers: { Allow: 'GET,HEAD,POST' } },
    { name: 'queries', req: 'POST /{db}/_all_docs/queries', body: { queries: [{ keys: ['a'] }, { limit: 1, skip: 3 }, { startkey: 'c' }] }, status: 200, like: { results: [{ rows: [{ id: 'a' }] }, { rows: [{ id: 'b' }] }, { rows: [{ id: 'c' }] }] } },
    { name: 'texts in a body are booleans', req: 'POST /{db}/_all_docs', body: { descending: 'true', include_docs: 'FALSE', limit: 1 }, status: 200, like: { rows: [{ id: 'c', doc: undefined }] } },
    { name: '... but not all', req: 'POST /{db}/_all_docs', body: { descending: 'maybe' }, status: 400, error: 'query_parse_error' },
    { name: 'queries without queries', req: 'POST /{db}/_all_docs/queries', body: {}, status: 400, error: 'bad_request', reason: 'POST body must include `queries` parameter.' },
    { name: 'queries of the wrong type', req: 'POST /{db}/_all_docs/queries', body: { queries: {} }, status: 400, error: 'bad_request', reason: '`queries` member must be an array.' },
    { name: 'no query', req: 'POST /{db}/_all_docs/queries', body: { queries: [] }, status: 200, keys: ['results'], like: { results: [] } },
    { name: 'GET queries', req: 'GET /{db}/_all_docs/queries', status: 405, error: 'method_not_allowed', headers: { Allow: 'POST' } },
  ], { prepare });

  api.rows('conflicts in _all_docs', [
    { name: 'a conflict', req: 'POST /{db}/_bulk_docs', body: { new_edits: false, docs: [{ _id: 'k', _rev: '1-a' }, { _id: 'k', _rev: '1-b' }] }, status: 201 },
    { name: 'conflicts=true lists the conflict', req: 'GET /{db}/_all_docs?include_docs=true&conflicts=true', status: 200, like: { rows: [{ doc: { _rev: '1-b', _conflicts: ['1-a'] } }] } },
    { name: '... which is not listed by default', req: 'GET /{db}/_all_docs?include_docs=true', status: 200, not: '_conflicts' },
  ]);

  api.rows('_design_docs', [
    { name: 'only design documents', req: 'GET /{db}/_design_docs', status: 200, check: given('_design/x', '_design/y') },
    { name: 'include_docs', req: 'GET /{db}/_design_docs?include_docs=true&limit=1', status: 200, like: { rows: [{ doc: { language: 'query' } }] } },
    { name: 'descending', req: 'GET /{db}/_design_docs?descending=true', status: 200, check: given('_design/y', '_design/x') },
    { name: 'keys', req: `GET /{db}/_design_docs?keys=${q(['_design/y', '_design/none'])}`, status: 200, like: { rows: [{ id: '_design/y' }, { key: '_design/none', error: 'not_found' }] } },
    { name: 'POST keys', req: 'POST /{db}/_design_docs', body: { keys: ['_design/x'] }, status: 200, check: given('_design/x') },
    { name: 'queries', req: 'POST /{db}/_design_docs/queries', body: { queries: [{ limit: 1 }] }, status: 200, like: { results: [{ rows: [{ id: '_design/x' }] }] } },
    { name: 'PUT', req: 'PUT /{db}/_design_docs', body: {}, status: 405, error: 'method_not_allowed' },
  ], { prepare });

  api.rows('_local_docs', [
    { name: 'only local documents', req: 'GET /{db}/_local_docs', status: 200, check: given('_local/l1', '_local/l2'), like: { total_rows: null, offset: null } },
    { name: 'include_docs', req: 'GET /{db}/_local_docs?include_docs=true', status: 200, like: { rows: [{ doc: { l: 1 } }, { doc: { l: 2 } }] } },
    { name: 'limit', req: 'GET /{db}/_local_docs?limit=1', status: 200, check: given('_local/l1') },
    { name: 'POST keys', req: 'POST /{db}/_local_docs', body: { keys: ['_local/l2'] }, status: 200, check: given('_local/l2') },
    { name: 'POST keys and limit', req: 'POST /{db}/_local_docs', body: { keys: ['_local/l1', '_local/l2'], limit: 1 }, status: 200, check: given('_local/l1') },
    { name: 'queries', req: 'POST /{db}/_local_docs/queries', body: { queries: [{ keys: ['_local/l1'] }] }, status: 200, like: { results: [{ rows: [{ id: '_local/l1' }] }] } },
    { name: 'local documents are not in _all_docs', req: 'GET /{db}/_all_docs', status: 200, not: '_local' },
    { name: '... nor in _changes', req: 'GET /{db}/_changes', status: 200, not: '_local' },
  ], { prepare });

  it('many documents are returned completely and in order', async () => {
    const db = await api.db();
    const docs = Array.from({ length: 3000 }, (_, n) => ({ _id: `k${String(n).padStart(4, '0')}`, text: 'x'.repeat(500) }));
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
    const all = await api.ok(`GET /${db}/_all_docs?include_docs=true`);
    assert.deepEqual(all.rows.map((row) => row.id), docs.map((doc) => doc._id));
    assert.ok(all.rows.every((row) => row.doc.text.length === 500));
    const back = await api.ok(`GET /${db}/_all_docs?descending=true`);
    assert.deepEqual(back.rows.map((row) => row.id), docs.map((doc) => doc._id).reverse());
  });
});
