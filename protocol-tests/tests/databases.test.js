// Creating and deleting databases, and their names: CouchDB docs `api/database/common.rst`.

import http from 'node:http';

import { ADMIN, PASSWORD } from '../harness/server.js';
import { suite, it, assert } from '../harness/rows.js';

const DOES_NOT_EXIST = 'Database does not exist.';

suite('databases', (api) => {
  api.rows('creating and deleting', [
    {
      name: 'creating a database returns 201 and its Location',
      req: 'PUT /{db}x',
      status: 201,
      like: { ok: true },
      keys: ['ok'],
      headers: { Location: (got, { db }) => new URL(got).pathname === `/${db}x` },
    },
    {
      name: 'creating it again returns 412',
      req: 'PUT /{db}x',
      status: 412,
      error: 'file_exists',
      reason: 'The database could not be created, the file already exists.',
    },
    {
      name: 'database information',
      req: 'GET /{db}x',
      status: 200,
      keys: [
        'cluster', 'compact_running', 'db_name', 'disk_format_version', 'doc_count', 'doc_del_count', 'instance_start_time',
        'props', 'purge_seq', 'sizes', 'update_seq',
      ],
      like: {
        db_name: (name) => name.endsWith('x'),
        doc_count: 0,
        doc_del_count: 0,
        compact_running: false,
        disk_format_version: Number,
        instance_start_time: /^\d+$/,
        update_seq: /^0/,
        purge_seq: /^0/,
        sizes: { file: Number, external: Number, active: Number },
        cluster: { q: Number, n: Number, w: Number, r: Number },
        props: {},
      },
    },
    { name: 'HEAD of an existing database', req: 'HEAD /{db}x', status: 200, text: '' },
    { name: 'DELETE with a rev is rejected', req: 'DELETE /{db}x?rev=1-967a00dff5e02add41819138abb3284d', status: 400, error: 'bad_request', reason: /You tried to DELETE a database with a \?=rev parameter/ },
    { name: 'delete', req: 'DELETE /{db}x', status: 200, like: { ok: true }, keys: ['ok'] },
    { name: 'a deleted database is missing', req: 'GET /{db}x', status: 404, error: 'not_found', reason: DOES_NOT_EXIST },
    { name: 'HEAD of a deleted database', req: 'HEAD /{db}x', status: 404, text: '' },
    { name: 'delete again', req: 'DELETE /{db}x', status: 404, error: 'not_found', reason: DOES_NOT_EXIST },
    { name: 'a document in a deleted database', req: 'PUT /{db}x/a', body: {}, status: 404, error: 'not_found', reason: DOES_NOT_EXIST },
    { name: 'create it again', req: 'PUT /{db}x', status: 201 },
    { name: 'a recreated database is empty', req: 'GET /{db}x', status: 200, like: { doc_count: 0, update_seq: /^0/ } },
    { name: 'clean up', req: 'DELETE /{db}x', status: 200 },
    {
      name: 'behind two proxies, Location has the host that the client has asked',
      req: 'PUT /{db}x',
      send: { 'X-Forwarded-Host': 'one.example, two.example', 'X-Forwarded-Proto': 'https, http' },
      status: 201,
      headers: { Location: (got, { db }) => got === `https://one.example/${db}x` },
    },
    { name: 'clean up again', req: 'DELETE /{db}x', status: 200 },
    { name: 'a trailing slash is the same database', req: 'GET /{db}/', status: 200, like: { doc_count: 0 } },
    {
      name: 'PATCH is not allowed',
      req: 'PATCH /{db}',
      status: 405,
      error: 'method_not_allowed',
      headers: { Allow: 'DELETE,GET,HEAD,POST' },
    },
    { name: 'anonymous creation is denied', req: 'PUT /{db}y', as: null, status: 401, error: 'unauthorized' },
    { name: 'anonymous deletion is denied', req: 'DELETE /{db}', as: null, status: 401, error: 'unauthorized' },
    { name: 'anonymous reads of an admin-only database are denied', req: 'GET /{db}', as: null, status: 401, error: 'unauthorized', reason: 'You are not authorized to access this db.' },
    { name: 'a wrong password is rejected', req: 'GET /{db}', as: 'admin:wrong', status: 401, error: 'unauthorized', reason: 'Name or password is incorrect.' },
  ]);

  api.rows('names', [
    ...['Upper', '1digit', '_under', 'with%20space', 'dot.dot', 'a%3Fb', '%C3%A4', 'a%00b', '-a', '%2Fa', 'a*b'].map((name) => ({
      name: `${name} is not a name`,
      req: `PUT /${name}`,
      status: 400,
      error: 'illegal_database_name',
      reason: /Only lowercase characters \(a-z\), digits \(0-9\), and any of the characters _, \$, \(, \), \+, -, and \/ are allowed\. Must begin with a letter\.$/,
    })),
    { name: 'all allowed characters', req: 'PUT /{db}_$()%2B-%2F09', status: 201, save: { ok: () => 'ok' } },
    { name: '... can be read by that name', req: 'GET /{db}_$()%2B-%2F09', status: 200, like: { db_name: /_\$\(\)\+-\/09$/ } },
    { name: '... and with all characters escaped', req: 'DELETE /{db}%5F%24%28%29%2B%2D%2F09', status: 200 },
    { name: 'a name that is too long', req: `PUT /${'a'.repeat(300)}`, status: 400, error: 'database_name_too_long' },
    { name: 'reading an invalid name', req: 'GET /Upper', status: 404, error: 'not_found', reason: 'Database does not exist.' },
  ]);

  api.rows('options', [
    { name: 'q and n', req: 'PUT /{db}q?q=3&n=1', status: 201 },
    { name: 'clean up', req: 'DELETE /{db}q', status: 200 },
    ...['q=0', 'q=-1', 'q=a', 'n=0', 'n=x'].map((query) => ({
      name: `${query} is refused`,
      req: `PUT /{db}q?${query}`,
      status: 400,
      error: 'bad_request',
      reason: `The \`${query[0]}\` value should be a positive integer.`,
    })),
    { name: 'partitioned must be true or false', req: 'PUT /{db}q?partitioned=maybe', status: 400, error: 'bad_request', reason: 'Invalid `partitioned` parameter' },
  ]);

  api.rows('POST a document', [
    {
      name: 'without an id, the server generates one',
      req: 'POST /{db}',
      body: { a: 1 },
      status: 201,
      keys: ['id', 'ok', 'rev'],
      like: { ok: true, id: /^[0-9a-f]{32}$/, rev: /^1-[0-9a-f]{32}$/ },
      save: { id: 'id' },
      headers: { Location: (got, { db }) => new URL(got).pathname.startsWith(`/${db}/`) },
    },
    { name: 'the document can be read', req: 'GET /{db}/{id}', status: 200, like: { a: 1 } },
    { name: 'with an id', req: 'POST /{db}', body: { _id: 'own', a: 2 }, status: 201, like: { id: 'own' } },
    { name: 'the same id again is a conflict', req: 'POST /{db}', body: { _id: 'own', a: 3 }, status: 409, error: 'conflict', reason: 'Document update conflict.' },
    { name: 'batch=ok returns 202', req: 'POST /{db}?batch=ok', body: { _id: 'batched' }, status: 202, keys: ['id', 'ok'], like: { ok: true, id: 'batched' } },
    { name: 'without a content type', req: 'POST /{db}', body: '{}', status: 415, error: 'bad_content_type', reason: 'Content-Type must be application/json' },
    { name: 'with another content type', req: 'POST /{db}', body: '{}', send: { 'Content-Type': 'text/plain' }, status: 415, error: 'bad_content_type' },
    { name: 'a content type with a charset', req: 'POST /{db}', body: '{}', send: { 'Content-Type': 'application/json; charset=utf-8' }, status: 201 },
    { name: 'an array is not a document', req: 'POST /{db}', body: [], status: 400, error: 'bad_request', reason: 'Document must be a JSON object' },
    { name: 'an empty id', req: 'POST /{db}', body: { _id: '' }, status: 400, error: 'illegal_docid', reason: 'Document id must not be empty' },
    { name: 'an id that is not a string', req: 'POST /{db}', body: { _id: 5 }, status: 400, error: 'illegal_docid', reason: 'Document id must be a string' },
  ]);

  it('counts documents and deletions, and increases the sequence', async () => {
    const db = await api.db();
    const { rev } = await api.ok(`PUT /${db}/a`, { body: {} });
    await api.ok(`PUT /${db}/b`, { body: { text: 'x'.repeat(10_000) } });
    const two = await api.ok(`GET /${db}`);
    assert.equal(two.doc_count, 2);
    assert.match(String(two.update_seq), /^2/);
    assert.ok(two.sizes.external >= 10_000 && two.sizes.external < 20_000, JSON.stringify(two.sizes));
    assert.ok(two.sizes.file > 0);
    await api.ok(`DELETE /${db}/a?rev=${rev}`);
    const one = await api.ok(`GET /${db}`);
    assert.equal(one.doc_count, 1);
    assert.equal(one.doc_del_count, 1);
    assert.match(String(one.update_seq), /^3/);
  });

  it('_ensure_full_commit, _shards, _view_cleanup and _sync_shards', async () => {
    const db = await api.db();
    const full = await api.call(`POST /${db}/_ensure_full_commit`, { body: {} });
    assert.equal(full.status, 201);
    assert.equal(full.json.ok, true);
    assert.match(full.json.instance_start_time, /^\d+$/);
    assert.ok((await api.ok(`GET /${db}/_shards`)).shards);
    const shard = await api.ok(`GET /${db}/_shards/doc`);
    assert.ok(shard.range && Array.isArray(shard.nodes));
    assert.equal((await api.call(`POST /${db}/_view_cleanup`, { body: {} })).status, 202);
    assert.equal((await api.call(`POST /${db}/_sync_shards`, { body: {} })).status, 202);
  });

  // The server asks for the body when the write has begun.
  const begun = (db, id) => new Promise((resolve, reject) => {
    const headers = { Authorization: `Basic ${btoa(`${ADMIN}:${PASSWORD}`)}`, 'Content-Type': 'application/json', 'Content-Length': 2, Expect: '100-continue' };
    const call = http.request(`${api.server.base}/${db}/${id}`, { method: 'PUT', headers });
    const answered = new Promise((ended, failed) => {
      call.on('response', (answer) => ended(answer.resume().statusCode)).on('error', failed);
    });
    call.on('continue', () => resolve({ end: () => call.end('{}'), answered })).on('error', reject);
    call.flushHeaders();
  });

  it('a deletion waits for writes that have begun', async () => {
    const db = await api.db();
    const write = await begun(db, 'a');
    const deleted = api.call(`DELETE /${db}`);
    const first = await Promise.race([deleted.then(() => 'deleted'), new Promise((end) => { setTimeout(end, 100, 'the write'); })]);
    assert.equal(first, 'the write');
    write.end();
    assert.equal(await write.answered, 201);
    assert.equal((await deleted).status, 200);
  });

  it('a right that is withdrawn while a deletion waits does not count', async () => {
    const db = await api.db();
    await api.ok('PUT /_node/_local/_config/admins/eve', { body: '"pass of eve"' });
    const write = await begun(db, 'a');
    const deleted = api.call(`DELETE /${db}`, { as: 'eve:pass of eve' });
    await Promise.race([deleted, new Promise((end) => { setTimeout(end, 100); })]);
    await api.ok('DELETE /_node/_local/_config/admins/eve');
    write.end();
    assert.equal(await write.answered, 201);
    assert.equal((await deleted).status, 401);
    assert.equal((await api.ok(`GET /${db}`)).doc_count, 1);
  });

  it('a deletion does not wait for long', async () => {
    const db = await api.db();
    const write = await begun(db, 'a');
    assert.equal((await api.call(`DELETE /${db}`)).status, 200);
    write.end();
    assert.equal(await write.answered, 404);
  });
});
