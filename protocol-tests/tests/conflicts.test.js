// `_conflicts`: the lists and counts of conflicted documents (docs/console-api.md).

import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { external } from '../harness/server.js';

const skip = external ? 'CouchDB has no such lists' : false;

/** Revisions with their ancestors, the newest first. */
const rev = (generation, ...ids) => ({ _rev: `${generation}-${ids[0]}`, _revisions: { start: generation, ids } });
const idsOf = ({ rows }) => rows.map(({ id }) => id);

describe('GET /{db}/_conflicts', { skip }, () => {
  const api = new Api();
  let db;
  before(async () => {
    await api.start();
    db = await api.db();
  });
  after(() => api.stop());

  const list = (query = '') => api.ok(`GET /${db}/_conflicts${query}`);
  const write = async (...docs) => {
    const answer = await api.ok(`POST /${db}/_bulk_docs`, { body: { new_edits: false, docs } });
    assert.deepEqual(answer, []);
  };

  it('is empty in a database without conflicts', async () => {
    await api.ok(`PUT /${db}/plain`, { body: {} });
    const { update_seq: seq, ...answer } = await list();
    assert.match(seq, /^1-/);
    assert.deepEqual(answer, { total_rows: 0, deleted_rows: 0, complete: true, progress: 100, next: null, rows: [] });
  });

  it('names all versions of a document, and both kinds of conflicts', async () => {
    await write(
      { _id: 'twice', ...rev(2, 'b', 'a') }, { _id: 'twice', ...rev(2, 'c', 'a') }, { _id: 'twice', ...rev(2, 'd', 'a'), _deleted: true },
      { _id: 'deleted', ...rev(2, 'b', 'a') }, { _id: 'deleted', ...rev(2, 'c', 'a'), _deleted: true },
      { _id: 'resolved', ...rev(2, 'b', 'a') }, { _id: 'resolved', ...rev(3, 'x', 'c', 'a'), _deleted: true },
      { _id: 'gone', ...rev(2, 'b', 'a'), _deleted: true }, { _id: 'gone', ...rev(2, 'c', 'a'), _deleted: true },
    );
    const answer = await list();
    assert.deepEqual([answer.total_rows, answer.deleted_rows, answer.rows.length], [1, 2, 1]);
    const [{ seq, ...row }] = answer.rows;
    assert.match(seq, /^[0-9]+-/);
    assert.deepEqual(row, { id: 'twice', winner: '2-c', conflicts: ['2-b'], deleted_conflicts: ['2-d'], leaves: 3 });
    assert.deepEqual(idsOf(await list('?deleted=true')).sort(), ['deleted', 'twice']);
  });

  it('loses a document when the conflict is resolved, settled or purged', async () => {
    // The edit wins: a tombstone under the tombstone.
    await write({ _id: 'deleted', ...rev(3, 'x', 'c', 'a'), _deleted: true });
    await api.ok(`POST /${db}/_purge`, { body: { twice: ['2-d'] } });
    assert.deepEqual(await list('?deleted=true').then(({ deleted_rows: count, rows }) => [count, rows]), [0, []]);
    const { json: [merged, closed] } = await api.call(`POST /${db}/_bulk_docs`, {
      body: { docs: [{ _id: 'twice', _rev: '2-c', merged: true }, { _id: 'twice', _rev: '2-b', _deleted: true }] },
    });
    assert.ok(merged.ok && closed.ok);
    const { total_rows: total, rows } = await list();
    assert.deepEqual([total, rows], [0, []]);
  });

  it('pages in both directions, with exact counts', async () => {
    const names = Array.from({ length: 25 }, (_, number) => `page${String(number).padStart(2, '0')}`);
    for (const _id of names) await write({ _id, ...rev(1, 'a') }, { _id, ...rev(1, 'b') });
    for (const descending of [true, false]) {
      const found = [];
      let next = '';
      do {
        const page = await list(`?limit=7&descending=${descending}${next && `&bookmark=${next}`}`);
        assert.equal(page.total_rows, 25);
        assert.ok(page.rows.length <= 7);
        found.push(...idsOf(page));
        ({ next } = page);
      } while (next !== null);
      assert.deepEqual(found, descending ? [...names].reverse() : names);
    }
  });

  it('lists only what changed after `since`', async () => {
    const { update_seq: since } = await list();
    assert.deepEqual((await list(`?since=${since}`)).rows, []);
    assert.deepEqual((await list('?since=now')).rows, []);
    await write({ _id: 'page03', ...rev(2, 'c', 'a') });
    for (const since2 of [since, since.split('-')[0]]) assert.deepEqual(idsOf(await list(`?since=${since2}`)), ['page03']);
    assert.equal(idsOf(await list())[0], 'page03');
    assert.equal((await list('?since=5-00000000000000000000000000000000&limit=1000')).rows.length, 25, 'of another instance');
  });

  it('refuses wrong parameters and methods', async () => {
    for (const query of ['limit=0', 'limit=1001', 'limit=-1', 'limit=x', 'deleted=perhaps', 'descending=1', 'bookmark=x', 'bookmark=-1']) {
      const { status, json } = await api.call(`GET /${db}/_conflicts?${query}`);
      assert.deepEqual([status, Object.keys(json)], [400, ['error', 'reason']], query);
    }
    assert.deepEqual((await list('?bookmark=999999999999999&descending=false')).rows, []);
    for (const method of ['PUT', 'POST', 'DELETE']) {
      const { status, headers } = await api.call(`${method} /${db}/_conflicts`);
      assert.deepEqual([status, headers.allow], [405, 'GET,HEAD']);
    }
    assert.equal((await api.call('GET /missing/_conflicts')).status, 404);
  });

  it('is for members, and that of `_users` for admins', async () => {
    for (const name of ['ann', 'bob']) await api.ok(`PUT /_users/org.couchdb.user:${name}`, { body: { name, password: 'pass', roles: [], type: 'user' } });
    await api.ok(`PUT /${db}/_security`, { body: { members: { names: ['ann'] } } });
    const status = async (path, as) => (await api.call(`GET ${path}`, { as })).status;
    assert.deepEqual(await Promise.all(['ann:pass', 'bob:pass', null].map((as) => status(`/${db}/_conflicts`, as))), [200, 403, 401]);
    // As CouchDB answers for `_changes` and `_active_tasks`.
    for (const [path, like] of [['/_users/_conflicts', '/_users/_changes'], ['/_conflicts', '/_active_tasks']]) {
      for (const as of ['ann:pass', null]) {
        const answered = await status(path, as);
        assert.ok(answered >= 401);
        assert.equal(answered, await status(like, as), `${path} as ${as}`);
      }
    }
    assert.equal(await status('/_users/_conflicts'), 200);
  });

  it('names at most 100 versions of a document', async () => {
    await write(...Array.from({ length: 150 }, (_, number) => ({ _id: 'many', ...rev(1, `r${number}`) })));
    const [row] = (await list('?limit=1')).rows;
    assert.deepEqual([row.id, row.conflicts.length, row.leaves], ['many', 100, 150]);
  });

  it('survives a restart with the same counts', async () => {
    const before2 = await list();
    await api.server.restart();
    const { json } = await api.call(`GET /${db}/_conflicts`, { fresh: true });
    assert.deepEqual(json, before2);
  });
});

describe('GET /_conflicts', { skip }, () => {
  const api = new Api();
  before(() => api.start());
  after(() => api.stop());

  it('counts the conflicts of all databases, page by page', async () => {
    const sums = (query = '') => api.ok(`GET /_conflicts${query}`);
    assert.deepEqual(await sums(), { total: 0, deleted: 0, complete: true, next: null, rows: [] });
    const names = ['a', 'b', 'c', 'd'];
    for (const [number, name] of names.entries()) {
      await api.ok(`PUT /${name}`);
      const docs = Array.from({ length: number }, (_, at) => [{ _id: `${at}`, _rev: '1-a' }, { _id: `${at}`, _rev: '1-b' }]).flat();
      if (name === 'd') docs.push({ _id: 'x', ...rev(2, 'b', 'a') }, { _id: 'x', ...rev(2, 'c', 'a'), _deleted: true });
      await api.ok(`POST /${name}/_bulk_docs`, { body: { new_edits: false, docs } });
    }
    const row = (db, conflicts, deleted = 0) => ({ db, conflicts, deleted, complete: true });
    const all = { total: 6, deleted: 1, complete: true };
    assert.deepEqual(await sums(), { ...all, next: null, rows: [row('b', 1), row('c', 2), row('d', 3, 1)] });
    assert.deepEqual(await sums('?limit=2'), { ...all, next: 'd', rows: [row('b', 1), row('c', 2)] });
    assert.deepEqual(await sums('?limit=2&start_key="d"'), { ...all, next: null, rows: [row('d', 3, 1)] });
    const everything = await sums('?all=true');
    assert.deepEqual(everything.rows.filter(({ db }) => names.includes(db)).length, 4);
    await api.ok('DELETE /d');
    assert.deepEqual(await sums(), { ...all, total: 3, deleted: 0, next: null, rows: [row('b', 1), row('c', 2)] });
    for (const query of ['limit=0', 'limit=10001', 'all=x', 'start_key=d', 'start_key=1']) {
      assert.equal((await api.call(`GET /_conflicts?${query}`)).status, 400, query);
    }
  });
});
