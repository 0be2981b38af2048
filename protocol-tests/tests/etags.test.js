// ETags: what an answer depends on changes its tag, so that no cache answers 304 for something else. CouchDB: `chttpd:make_etag`,
// `couch_httpd:doc_etag`.

import { suite, it, assert } from '../harness/rows.js';
import { external } from '../harness/server.js';

suite('ETags', (api) => {
  const tagged = async (req, options = {}) => {
    const answer = await api.call(req, options);
    assert.equal(answer.status, 200, answer.text);
    return answer.headers.etag;
  };
  const again = async (req, etag, { send = {}, ...options } = {}) => (await api.call(req, { ...options, send: { ...send, 'If-None-Match': etag } })).status;

  it('_changes of a database that was made anew is not that of the old one', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
    const etag = await tagged(`GET /${db}/_changes`);
    assert.equal(await again(`GET /${db}/_changes`, etag), 304);
    await api.ok(`DELETE /${db}`);
    await api.ok(`PUT /${db}`);
    await api.ok(`PUT /${db}/b`, { body: { n: 1 } });
    assert.equal(await again(`GET /${db}/_changes`, etag), 200);
  });

  it('_changes by POST depends on the body', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'a' }, { _id: 'b' }] } });
    const asked = (...ids) => ({ body: { doc_ids: ids } });
    const etag = await tagged(`POST /${db}/_changes?filter=_doc_ids`, asked('a'));
    if (external) return;
    assert.equal(await again(`POST /${db}/_changes?filter=_doc_ids`, etag, asked('a')), 304);
    assert.equal(await again(`POST /${db}/_changes?filter=_doc_ids`, etag, asked('b')), 200);
  });

  it('_changes depends on the user, and with a filter function on the whole request', async () => {
    const db = await api.db();
    await api.ok(`PUT /${db}/_security`, { body: { admins: { names: [], roles: [] }, members: { names: [], roles: [] } } });
    await api.ok(`PUT /${db}/_design/f`, { body: { filters: { mine: "function (doc, req) { return req.userCtx.name === null || req.headers['X-Mine'] === doc._id; }" } } });
    await api.ok(`PUT /${db}/a`, { body: {} });
    const etag = await tagged(`GET /${db}/_changes`);
    if (external) return;
    assert.equal(await again(`GET /${db}/_changes`, etag, { as: null }), 200);
    const filtered = `GET /${db}/_changes?filter=f/mine`;
    const first = await tagged(filtered, { send: { 'X-Mine': 'none' } });
    const answer = await api.call(filtered, { send: { 'X-Mine': 'a', 'If-None-Match': first ?? '"none"' } });
    assert.deepEqual([answer.status, answer.json?.results.map(({ id }) => id)], [200, ['a']]);
  });

  it('a _local document has the tag of its content', async () => {
    const db = await api.db();
    const path = `/${db}/_local/c`;
    await api.ok(`PUT ${path}`, { body: { n: 1 } });
    const etag = await tagged(`GET ${path}`);
    assert.equal(await again(`GET ${path}`, etag), 304);
    // Without a revision, it starts at 0-1 again.
    await api.ok(`PUT ${path}`, { body: { n: 2 } });
    assert.equal(await again(`GET ${path}`, etag), 200);
    await api.ok(`DELETE ${path}?rev=0-1`);
    await api.ok(`PUT ${path}`, { body: { n: 3 } });
    assert.equal(await again(`GET ${path}`, etag), 200);
    await api.ok(`DELETE /${db}`);
    await api.ok(`PUT /${db}`);
    await api.ok(`PUT ${path}`, { body: { n: 4 } });
    assert.equal(await again(`GET ${path}`, etag), 200);
  });

  it('the public part of an account has no tag', { skip: !!external }, async () => {
    const account = '/_users/org.couchdb.user:tagged';
    const old = await api.ok('PUT /_node/_local/_config/chttpd_auth/public_fields', { body: '"name, nick"' });
    try {
      await api.ok(`PUT ${account}`, { body: { name: 'tagged', password: 'a long password', roles: [], type: 'user', nick: 'n', mail: 'secret' } });
      await api.ok('PUT /_users/org.couchdb.user:other', { body: { name: 'other', password: 'a long password', roles: [], type: 'user' } });
      const etag = await tagged(`GET ${account}`);
      assert.equal(await again(`GET ${account}`, etag, { as: 'tagged:a long password' }), 304, 'its own user sees all of it');
      const answer = await api.call(`GET ${account}`, { as: 'other:a long password', send: { 'If-None-Match': etag } });
      assert.deepEqual([answer.status, answer.json?.nick, answer.json?.mail, answer.headers.etag], [200, 'n', undefined, undefined]);
    } finally {
      await api.ok('PUT /_node/_local/_config/chttpd_auth/public_fields', { body: JSON.stringify(old) });
    }
  });

  it('a show depends on what its function receives', { skip: !!external }, async () => {
    const db = await api.db();
    const design = { shows: { s: 'function (doc, req) { return JSON.stringify([doc._conflicts, req.query.q, req.body === "undefined" ? 0 : req.body]); }' } };
    const fill = async () => {
      await api.ok(`PUT /${db}/_design/d`, { body: design });
      await api.ok(`POST /${db}/_bulk_docs`, { body: { new_edits: false, docs: [{ _id: 'a', _rev: '1-b', n: 1 }] } });
    };
    await fill();
    const path = `/${db}/_design/d/_show/s/a`;
    const etag = await tagged(`GET ${path}`);
    assert.equal(await again(`GET ${path}`, etag), 304);
    assert.equal(await again(`GET ${path}?q=1`, etag), 200);
    assert.equal(await again(`POST ${path}`, etag, { body: 'x', send: { 'Content-Type': 'text/plain' } }), 200);
    await api.ok(`POST /${db}/_bulk_docs`, { body: { new_edits: false, docs: [{ _id: 'a', _rev: '1-a' }] } });
    assert.equal(await again(`GET ${path}`, etag), 200, 'a conflict');
    await api.ok(`DELETE /${db}`);
    await api.ok(`PUT /${db}`);
    await fill();
    assert.equal(await again(`GET ${path}`, etag), 200, 'a database made anew');
  });
});
