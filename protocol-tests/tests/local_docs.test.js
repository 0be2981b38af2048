// Local documents, in which replicators store their checkpoints: CouchDB docs `api/local.rst`.

import { suite, it, assert } from '../harness/rows.js';

suite('local documents', (api) => {
  api.rows('_local', [
    { name: 'PUT', req: 'PUT /{db}/_local/c', body: { seq: 1 }, status: 201, like: { ok: true, id: '_local/c', rev: '0-1' }, keys: ['id', 'ok', 'rev'], save: { rev: 'rev' } },
    { name: 'GET', req: 'GET /{db}/_local/c', status: 200, check: ({ json }) => assert.deepEqual(json, { _id: '_local/c', _rev: '0-1', seq: 1 }) },
    { name: 'HEAD', req: 'HEAD /{db}/_local/c', status: 200, text: '' },
    { name: 'PUT again with its revision', req: 'PUT /{db}/_local/c', body: { _rev: '0-1', seq: 2 }, status: 201, like: { rev: '0-2' } },
    { name: 'GET the new one', req: 'GET /{db}/_local/c', status: 200, like: { _rev: '0-2', seq: 2 } },
    // Local documents never conflict in CouchDB: a write increments the revision that it names.
    { name: 'PUT with an old revision increments it', req: 'PUT /{db}/_local/c', body: { _rev: '0-1', seq: 3 }, status: 201, like: { rev: '0-2' } },
    { name: 'PUT without a revision restarts at 0-1', req: 'PUT /{db}/_local/c', body: { seq: 4 }, status: 201, like: { rev: '0-1' } },
    { name: 'the revision in the query counts', req: 'PUT /{db}/_local/c?rev=0-4', body: { seq: 4 }, status: 201, like: { rev: '0-5' } },
    { name: 'one that is none in the query', req: 'PUT /{db}/_local/c?rev=x', body: { seq: 4 }, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'a missing local document', req: 'GET /{db}/_local/none', status: 404, error: 'not_found', reason: 'missing' },
    { name: 'an invalid revision', req: 'PUT /{db}/_local/c', body: { _rev: 'x' }, status: 400, error: 'bad_request' },
    { name: 'with a slash in the id', req: 'PUT /{db}/_local/a%2Fb', body: {}, status: 201, like: { id: '_local/a/b' } },
    { name: 'reading an attachment', req: 'GET /{db}/_local/c/att', status: 400, error: 'bad_request', reason: '_local documents do not accept attachments.' },
    { name: 'writing an attachment', req: 'PUT /{db}/_local/c/att', body: 'x', send: { 'Content-Type': 'text/plain' }, status: 400, error: 'bad_request', reason: '_local documents do not accept attachments.' },
    { name: 'no id', req: 'GET /{db}/_local', status: 400, error: 'bad_request', reason: 'Invalid _local document id.' },
    { name: 'an empty id', req: 'GET /{db}/_local/', status: 400, error: 'bad_request' },
    { name: 'through _bulk_docs', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: '_local/bulk', n: 1 }] }, status: 201, like: [{ ok: true, id: '_local/bulk', rev: '0-1' }] },
    { name: '... is stored', req: 'GET /{db}/_local/bulk', status: 200, like: { n: 1 } },
    { name: 'an id that is too long, through _bulk_docs', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: `_local/${'l'.repeat(7000)}` }] }, status: 400, error: 'bad_request', reason: 'Invalid _local document id.' },
    { name: 'COPY', req: 'COPY /{db}/_local/bulk', send: { Destination: '_local/copied' }, status: 201, like: { id: '_local/copied' } },
    { name: 'the database does not count local documents', req: 'GET /{db}', status: 200, like: { doc_count: 0, update_seq: /^0/ } },
    { name: 'DELETE', req: 'DELETE /{db}/_local/c?rev=0-1', status: 200, like: { ok: true, id: '_local/c', rev: '0-0' } },
    { name: 'a deleted local document is missing', req: 'GET /{db}/_local/c', status: 404, error: 'not_found' },
    { name: 'DELETE of a missing local document', req: 'DELETE /{db}/_local/none?rev=0-1', status: 404, error: 'not_found' },
    { name: 'recreating restarts at 0-1', req: 'PUT /{db}/_local/c', body: {}, status: 201, like: { rev: '0-1' } },
  ]);

  it("a replicator's checkpoint", async () => {
    const db = await api.db();
    const id = '_local/tJn_5G4iFQhCqGEcYPSCqw%3D%3D';
    let rev;
    for (let n = 1; n <= 5; n += 1) {
      const doc = { session_id: 's', history: [{ recorded_seq: n }], source_last_seq: `${n}-x`, ...(rev ? { _rev: rev } : {}) };
      ({ rev } = await api.ok(`PUT /${db}/${id}`, { body: doc }));
      assert.equal(rev, `0-${n}`);
    }
    const got = await api.ok(`GET /${db}/${id}`);
    assert.equal(got._id, '_local/tJn_5G4iFQhCqGEcYPSCqw==');
    assert.equal(got.source_last_seq, '5-x');
  });
});
