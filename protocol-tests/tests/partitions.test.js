// Partitioned databases: CouchDB docs `api/partitioned-dbs.rst`, `test/elixir/test/partition_*_test.exs`.

import { suite, it, assert } from '../harness/rows.js';

suite('partitions', (api) => {
  api.rows('a partitioned database', [
    { name: 'reports that it is partitioned', req: 'GET /{db}', status: 200, like: { props: { partitioned: true } } },
    { name: 'a document with its partition', req: 'PUT /{db}/p:a', body: { n: 1 }, status: 201, like: { id: 'p:a' } },
    { name: 'by POST', req: 'POST /{db}', body: { _id: 'p:b', n: 2 }, status: 201 },
    { name: 'by _bulk_docs', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: 'q:a' }, { _id: 'p:c:d' }] }, status: 201, like: [{ ok: true }, { ok: true }] },
    { name: 'without a partition', req: 'PUT /{db}/nope', body: {}, status: 400, error: 'illegal_docid', reason: 'Doc id must be of form partition:id' },
    { name: 'without a partition in _bulk_docs', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: 'nope' }] }, status: 400, error: 'illegal_docid', reason: 'Doc id must be of form partition:id' },
    { name: 'with an underscore', req: 'PUT /{db}/_p:a', body: {}, status: 400, error: 'illegal_docid', reason: 'Only reserved document ids may start with underscore.' },
    { name: 'an empty partition', req: 'PUT /{db}/:a', body: {}, status: 400, error: 'illegal_docid' },
    { name: 'an empty id after the partition', req: 'PUT /{db}/p:', body: {}, status: 400, error: 'illegal_docid', reason: 'Document id must not be empty' },
    { name: 'purging an id without a partition', req: 'POST /{db}/_purge', body: { nope: ['1-a'] }, status: 400, error: 'illegal_docid' },
    { name: 'a system database cannot be partitioned', req: 'PUT /_replicator?partitioned=true', status: 400, error: 'bad_request', reason: 'Cannot partition a system database' },
    { name: 'reading an id without a partition', req: 'GET /{db}/nope', status: 400, error: 'illegal_docid', reason: 'Doc id must be of form partition:id' },
    { name: 'its revisions', req: 'GET /{db}/nope?open_revs=all', status: 400, error: 'illegal_docid' },
    { name: 'deleting it', req: 'DELETE /{db}/nope?rev=1-a', status: 400, error: 'illegal_docid' },
    { name: 'its attachment', req: 'GET /{db}/nope/a', status: 400, error: 'illegal_docid' },
    { name: 'reading a design document that does not exist', req: 'GET /{db}/_design/nope', status: 404, error: 'not_found', reason: 'missing' },
    { name: '_bulk_get of an id without a partition', req: 'POST /{db}/_bulk_get', body: { docs: [{ id: 'nope' }] }, status: 200, like: { results: [{ docs: [{ error: { error: 'illegal_docid', reason: 'Doc id must be of form partition:id' } }] }] } },
    { name: 'design documents have no partition', req: 'PUT /{db}/_design/d', body: { language: 'query' }, status: 201 },
    { name: 'local documents have no partition', req: 'PUT /{db}/_local/l', body: {}, status: 201 },
    { name: 'partition information', req: 'GET /{db}/_partition/p', status: 200, like: { doc_count: 3, doc_del_count: 0, partition: 'p', sizes: { active: Number, external: Number } } },
    { name: 'information of an empty partition', req: 'GET /{db}/_partition/none', status: 200, like: { doc_count: 0, partition: 'none' } },
    { name: '_all_docs of a partition', req: 'GET /{db}/_partition/p/_all_docs', status: 200, check: ({ json }) => assert.deepEqual(json.rows.map((r) => r.id), ['p:a', 'p:b', 'p:c:d']) },
    { name: '... with parameters', req: 'GET /{db}/_partition/p/_all_docs?descending=true&limit=1&include_docs=true', status: 200, like: { rows: [{ id: 'p:c:d', doc: Object }] } },
    { name: '... stays within the partition', req: 'GET /{db}/_partition/p/_all_docs?startkey=%22a%22&endkey=%22z%22', status: 200, check: ({ json }) => assert.deepEqual(json.rows.map((r) => r.id), ['p:a', 'p:b', 'p:c:d']) },
    { name: '... with a key', req: 'GET /{db}/_partition/p/_all_docs?key=%22p%3Ab%22', status: 200, check: ({ json }) => assert.deepEqual(json.rows.map((r) => r.id), ['p:b']) },
    { name: '_all_docs of the whole database', req: 'GET /{db}/_all_docs', status: 200, check: ({ json }) => assert.deepEqual(json.rows.map((r) => r.id), ['_design/d', 'p:a', 'p:b', 'p:c:d', 'q:a']) },
    { name: 'a partition that starts with an underscore', req: 'GET /{db}/_partition/_p', status: 400, error: 'illegal_partition', reason: 'Partition must not start with an underscore' },
    { name: 'a partition with a colon', req: 'GET /{db}/_partition/p%3Aa', status: 400, error: 'illegal_partition', reason: 'Partition must not contain a colon' },
    { name: 'another partition in the query', req: 'GET /{db}/_partition/p/_all_docs?partition=q', status: 400, error: 'bad_request', reason: 'Conflicting value for `partition` in query string' },
    { name: 'a partition of _all_docs as a parameter', req: 'GET /{db}/_all_docs?partition=q', status: 200, check: ({ json }) => assert.deepEqual(json.rows.map((r) => r.id), ['q:a']) },
    { name: '... that is none', req: 'GET /{db}/_all_docs?partition=_q', status: 400, error: 'illegal_partition' },
    { name: 'a partition in the body of _find', req: 'POST /{db}/_find', body: { selector: {}, partition: 'q' }, status: 200, like: { docs: [{ _id: 'q:a' }] } },
    { name: 'no partition', req: 'GET /{db}/_partition', status: 400, error: 'bad_request' },
    { name: 'an endpoint that partitions do not have', req: 'GET /{db}/_partition/p/_changes', status: 404, error: 'not_found' },
    { name: 'POST', req: 'POST /{db}/_partition/p', body: {}, status: 405, error: 'method_not_allowed' },
  ], { query: '?partitioned=true&q=1' });

  api.rows('a database without partitions', [
    { name: 'has no partitions', req: 'GET /{db}/_partition/p', status: 400, error: 'bad_request', reason: 'database is not partitioned' },
    { name: '... nor their _all_docs', req: 'GET /{db}/_partition/p/_all_docs', status: 400, error: 'bad_request', reason: 'database is not partitioned' },
    { name: '... nor a partition in _find', req: 'POST /{db}/_find', body: { selector: {}, partition: 'p' }, status: 400, error: 'query_parse_error', reason: '`partition` parameter is not supported on this db' },
    { name: '... which _explain explains', req: 'POST /{db}/_explain', body: { selector: {}, partition: 'p' }, status: 200, like: { opts: { partition: 'p' } } },
    { name: '... nor in _all_docs', req: 'GET /{db}/_all_docs?partition=p', status: 400, error: 'query_parse_error', reason: '`partition` parameter is not supported on this db' },
    { name: '... nor in its queries', req: 'POST /{db}/_all_docs/queries', body: { queries: [{ partition: 'p' }] }, status: 400, error: 'query_parse_error' },
    { name: '... and accepts any id', req: 'PUT /{db}/nope', body: {}, status: 201 },
  ]);

  it('a full partition rejects writes, except replicated ones and those that shrink it', async () => {
    const setting = '/_node/_local/_config/couchdb/max_partition_size';
    const db = await api.db('?partitioned=true');
    const text = 'x'.repeat(1000);
    const { rev } = await api.ok(`PUT /${db}/p:a`, { body: { text } });
    const before = await api.ok(`PUT ${setting}`, { body: '"1000"', send: { 'X-Couch-Persist': 'false' } });
    try {
      const full = await api.call(`PUT /${db}/p:b`, { body: { text } });
      assert.equal(full.status, 403, full.text);
      assert.deepEqual(full.json, { error: 'partition_overflow', reason: "Partition limit exceeded due to update on 'p:b'" });
      const mixed = await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'p:b' }, { _id: 'q:b' }] } });
      assert.equal(mixed[0].error, 'partition_overflow');
      assert.equal(mixed[1].ok, true);
      assert.equal((await api.call(`PUT /${db}/p:r?new_edits=false`, { body: { _rev: '1-a', text } })).status, 201);
      assert.equal((await api.call(`PUT /${db}/p:a?rev=${rev}`, { body: { text: '' } })).status, 201);
      const info = await api.ok(`GET /${db}/_partition/p`);
      assert.equal(info.doc_count, 2);
      assert.ok(info.sizes.external > 1000);
    } finally {
      await api.ok(`PUT ${setting}`, { body: JSON.stringify(before) });
    }
  });
});
