// Administration of a database: CouchDB docs `api/database/{misc,compact,security,shard}.rst`,
// `test/elixir/test/purge_test.exs`.

import { suite, it, assert } from '../harness/rows.js';
import { until } from '../harness/server.js';

suite('administration', (api) => {
  api.rows('_purge', [
    { name: 'documents', req: 'POST /{db}/_bulk_docs', body: { docs: [{ _id: 'a', n: 1 }, { _id: 'b' }] }, status: 201, save: { a: ({ json }) => json[0].rev, b: ({ json }) => json[1].rev } },
    { name: 'a conflicting branch', req: 'PUT /{db}/a?new_edits=false', body: { _rev: '1-0', n: 2 }, status: 201 },
    { name: '_purge of one leaf', req: 'POST /{db}/_purge', body: (w) => ({ a: [w.a], b: ['9-none'], none: ['1-x'] }), status: 201, keys: ['purge_seq', 'purged'], check: ({ json }, w) => { assert.equal(json.purge_seq, null); assert.deepEqual(json.purged, { a: [w.a], b: [], none: [] }); } },
    { name: '... keeps the other leaf', req: 'GET /{db}/a?conflicts=true', status: 200, like: { _rev: '1-0', n: 2, _conflicts: undefined } },
    { name: '... removes the purged revision', req: 'GET /{db}/a?rev={a}', status: 404, error: 'not_found' },
    { name: '_purge of the last leaf', req: 'POST /{db}/_purge', body: { a: ['1-0'] }, status: 201 },
    { name: '... removes the document, as if it had never existed', req: 'GET /{db}/a', status: 404, error: 'not_found', reason: 'missing' },
    { name: '... removes it from _changes', req: 'GET /{db}/_changes', status: 200, check: ({ json }) => assert.deepEqual(json.results.map((r) => r.id), ['b']) },
    { name: '... does not count it', req: 'GET /{db}', status: 200, like: { doc_count: 1, doc_del_count: 0 } },
    { name: '_purged_infos lists the purged revisions', req: 'GET /{db}/_purged_infos', status: 200, check: ({ json }) => assert.ok(json.purged_infos.some((info) => info.id === 'a' && info.revs.includes('1-0'))) },
    { name: '_purged_infos_limit', req: 'GET /{db}/_purged_infos_limit', status: 200, text: /^1000\s*$/ },
    { name: 'set _purged_infos_limit', req: 'PUT /{db}/_purged_infos_limit', body: '500', status: 200, like: { ok: true } },
    { name: '... which is returned', req: 'GET /{db}/_purged_infos_limit', status: 200, text: /^500\s*$/ },
    { name: '_purged_infos_limit of 0 is rejected', req: 'PUT /{db}/_purged_infos_limit', body: '0', status: 400, error: 'bad_request', reason: '`purged_infos_limit` must be positive integer' },
    { name: 'a bad revision', req: 'POST /{db}/_purge', body: { a: ['x'] }, status: 400, error: 'bad_request', reason: 'Invalid rev format' },
    { name: 'revisions of the wrong type', req: 'POST /{db}/_purge', body: { a: 5 }, status: 400, error: 'bad_request' },
    { name: 'GET', req: 'GET /{db}/_purge', status: 405, error: 'method_not_allowed', headers: { Allow: 'POST' } },
    { name: 'anonymous access is denied', req: 'POST /{db}/_purge', as: null, body: {}, status: 401, error: 'unauthorized' },
  ]);

  api.rows('_auto_purge', [
    { name: 'empty by default', req: 'GET /{db}/_auto_purge', status: 200, check: ({ json }) => assert.deepEqual(json, {}) },
    { name: 'set', req: 'PUT /{db}/_auto_purge', body: { deleted_document_ttl: '3_hours' }, status: 201, like: { ok: true } },
    { name: 'read', req: 'GET /{db}/_auto_purge', status: 200, check: ({ json }) => assert.deepEqual(json, { deleted_document_ttl: '3_hours' }) },
    { name: 'infinity is accepted', req: 'PUT /{db}/_auto_purge', body: { deleted_document_ttl: 'infinity' }, status: 201 },
    { name: 'an invalid duration', req: 'PUT /{db}/_auto_purge', body: { deleted_document_ttl: '3' }, status: 400, error: 'bad_request', reason: 'deleted_document_ttl must be a valid string' },
    { name: 'a number', req: 'PUT /{db}/_auto_purge', body: { deleted_document_ttl: 3 }, status: 400, error: 'bad_request', reason: 'deleted_document_ttl must be a valid string' },
    { name: 'another property', req: 'PUT /{db}/_auto_purge', body: { x: '3_hours' }, status: 400, error: 'bad_request', reason: 'invalid auto purge property' },
    { name: 'rejected values are not stored', req: 'GET /{db}/_auto_purge', status: 200, check: ({ json }) => assert.deepEqual(json, { deleted_document_ttl: 'infinity' }) },
    { name: 'reset to empty', req: 'PUT /{db}/_auto_purge', body: {}, status: 201 },
    { name: 'POST', req: 'POST /{db}/_auto_purge', body: {}, status: 405, error: 'method_not_allowed', headers: { Allow: 'GET,PUT,HEAD' } },
    { name: 'anonymous access is denied', req: 'PUT /{db}/_auto_purge', as: null, body: {}, status: 401, error: 'unauthorized' },
  ]);

  api.rows('_revs_limit', [
    { name: 'the default is 1000', req: 'GET /{db}/_revs_limit', status: 200, text: /^1000\s*$/ },
    { name: 'set', req: 'PUT /{db}/_revs_limit', body: '3', status: 200, like: { ok: true } },
    { name: 'read', req: 'GET /{db}/_revs_limit', status: 200, text: /^3\s*$/ },
    { name: 'POST', req: 'POST /{db}/_revs_limit', body: '3', status: 405, error: 'method_not_allowed', headers: { Allow: 'PUT,GET' } },
    { name: '0 is rejected', req: 'PUT /{db}/_revs_limit', body: '0', status: 400, couch: 500, error: 'bad_request' },
  ]);

  it('_revs_limit limits the number of stored revisions', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/_revs_limit`, { body: '3' });
    let rev;
    for (let n = 0; n < 8; n += 1) ({ rev } = await api.ok(`PUT /${db}/a${rev ? `?rev=${rev}` : ''}`, { body: { n } }));
    const doc = await api.ok(`GET /${db}/a?revs=true`);
    assert.equal(doc._revisions.start, 8);
    assert.equal(doc._revisions.ids.length, 3);
  });

  it('_compact removes the bodies of old revisions and nothing else', async () => {
    const db = await api.db();
    const one = await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
    const two = await api.ok(`PUT /${db}/a?rev=${one.rev}`, { body: { n: 2 } });
    await api.ok(`PUT /${db}/a?new_edits=false`, { body: { _rev: '1-conflict', n: 3 } });
    assert.equal((await api.call(`GET /${db}/a?rev=${one.rev}`)).status, 200);
    const answer = await api.call(`POST /${db}/_compact`, { body: {} });
    assert.equal(answer.status, 202);
    assert.deepEqual(answer.json, { ok: true });
    await until('compaction to end', async () => (await api.ok(`GET /${db}`)).compact_running === false);
    await until('the old body to be gone', async () => (await api.call(`GET /${db}/a?rev=${one.rev}`)).status === 404);
    const doc = await api.ok(`GET /${db}/a?conflicts=true&revs_info=true`);
    assert.equal(doc._rev, two.rev);
    assert.deepEqual(doc._conflicts, ['1-conflict']);
    assert.deepEqual(doc._revs_info.map((info) => info.status), ['available', 'missing']);
    assert.equal((await api.ok(`GET /${db}/a?rev=1-conflict`)).n, 3);
  });

  api.rows('errors of _compact', [
    { name: 'without a content type', req: 'POST /{db}/_compact', status: 415, error: 'bad_content_type' },
    { name: 'GET', req: 'GET /{db}/_compact', status: 405, error: 'method_not_allowed', headers: { Allow: 'POST' } },
    { name: 'a missing design document', req: 'POST /{db}/_compact/none', body: {}, status: 404, error: 'not_found' },
    { name: 'anonymous access is denied', req: 'POST /{db}/_compact', as: null, body: {}, status: 401, error: 'unauthorized' },
  ]);

  it('_security is shown only to admins of the database if a setting asks for it', async () => {
    const db = await api.db();
    const setting = '/_node/_local/_config/chttpd/admin_only_security';
    await api.ok('PUT /_node/_local/_config/admins/boss', { body: '"boss-password"' });
    for (const name of ['reader', 'owner']) {
      await api.ok(`PUT /_users/org.couchdb.user:${name}-${db}`, { body: { name: `${name}-${db}`, password: 'a-password', roles: [], type: 'user' } });
    }
    const [reader, owner] = ['reader', 'owner'].map((name) => `${name}-${db}:a-password`);
    await api.ok(`PUT /${db}/_security`, { body: { admins: { names: [`owner-${db}`] }, members: { names: [`reader-${db}`] } } });
    const status = async (as) => (await api.call(`GET /${db}/_security`, { as })).status;
    assert.equal(await status(reader), 200, 'as in CouchDB');
    await api.ok(`PUT ${setting}`, { body: '"true"' });
    try {
      assert.equal(await status(reader), 403);
      assert.equal((await api.call(`GET /${db}`, { as: reader })).status, 200, 'the database itself is open to its members');
      assert.equal(await status(owner), 200);
      assert.equal(await status(undefined), 200);
      await api.ok(`PUT /${db}/_security`, { body: { admins: {}, members: {} } });
      assert.equal(await status(null), 401);
    } finally {
      await api.ok(`DELETE ${setting}`);
      await api.ok('DELETE /_node/_local/_config/admins/boss');
    }
  });

  api.rows('_security', [
    { name: 'the default', req: 'GET /{db}/_security', status: 200, check: ({ json }) => assert.deepEqual(json, { members: { roles: ['_admin'] }, admins: { roles: ['_admin'] } }) },
    { name: 'set', req: 'PUT /{db}/_security', body: { admins: { names: ['x'], roles: [] }, members: { names: [], roles: ['r'] }, cloudant: { nobody: [] } }, status: 200, like: { ok: true } },
    { name: 'returned unchanged', req: 'GET /{db}/_security', status: 200, check: ({ json }) => assert.deepEqual(json, { admins: { names: ['x'], roles: [] }, members: { names: [], roles: ['r'] }, cloudant: { nobody: [] } }) },
    { name: 'not an object', req: 'PUT /{db}/_security', body: [], status: 400, error: 'bad_request' },
    { name: 'members of the wrong type', req: 'PUT /{db}/_security', body: { members: { names: 'x' } }, status: 400, couch: 500, error: 'bad_request', reason: 'names must be a JSON list of strings' },
    { name: 'POST', req: 'POST /{db}/_security', body: {}, status: 405, error: 'method_not_allowed', headers: { Allow: 'PUT,GET' } },
  ]);
});
