// Replication by the server: `_replicate`, `_replicator` databases, `_scheduler`, `_active_tasks`. The statuses and texts are
// those of CouchDB 3.5 (`couch_replicator`, its `replication_test.exs`, and docs `api/server/common.rst`).
//
// Two servers: the one under test, and one that it replicates with over HTTP on this machine.

import { suite, describe, it, before, after, assert, Api, like } from '../harness/rows.js';
import { external, until } from '../harness/server.js';

const env = { SETTEE_REPLICATOR__ALLOW_PRIVATE: 'true', SETTEE_REPLICATOR__CHECKPOINT_INTERVAL: '1000' };
const only = { skip: external ? 'local names are settee\'s own' : false };

suite('replication by the server', (api) => {
  const other = new Api({ env });
  before(() => other.start());
  after(() => other.stop());

  /** The URL of a database of the other server, with the admin's name and password. */
  const there = (name) => `${other.server.address}/${encodeURIComponent(name)}`;
  const post = (body, options = {}) => api.call('POST /_replicate', { body, ...options });

  async function fill(on, name, count, prefix = 'doc') {
    const docs = Array.from({ length: count }, (_, n) => ({ _id: `${prefix}${n}`, n }));
    const rows = await on.ok(`POST /${encodeURIComponent(name)}/_bulk_docs`, { body: { docs } });
    return rows.map((row) => row.rev);
  }

  const count = async (on, name) => (await on.ok(`GET /${encodeURIComponent(name)}`)).doc_count;
  const jobs = async () => (await api.ok('GET /_scheduler/jobs?limit=10000')).jobs;
  const doc = (id, db = '_replicator') => api.ok(`GET /${encodeURIComponent(db)}/${id}`);
  const state = async (id, db = '_replicator') => (await api.call(`GET /_scheduler/docs/${db}/${id}`)).json;

  async function put(id, body, { db = '_replicator', as } = {}) {
    return api.call(`PUT /${encodeURIComponent(db)}/${id}`, { body, as });
  }

  const ended = (id, wanted, db) =>
    until(`${id} to be ${wanted}`, async () => {
      const found = await doc(id, db);
      return found._replication_state === wanted && found;
    });

  const inState = (id, wanted, db) =>
    until(`${id} to be ${wanted}`, async () => {
      const found = await state(id, db);
      return found.state === wanted && found;
    });

  const src = 'http://127.0.0.1:1/x';

  api.rows('wrong requests', [
    { name: 'GET', req: 'GET /_replicate', status: 405, error: 'method_not_allowed', reason: 'Only POST allowed' },
    { name: 'not signed in', req: 'POST /_replicate', as: null, body: {}, status: 401, error: 'unauthorized' },
    { name: 'no JSON', req: 'POST /_replicate', send: { 'Content-Type': 'text/plain' }, body: 'x', status: 415, error: 'bad_content_type' },
    { name: 'no object', req: 'POST /_replicate', body: [], status: 400, error: 'bad_request' },
    { name: 'no source', req: 'POST /_replicate', body: { target: src }, status: 500, error: 'error', reason: 'Missing replicator database' },
    { name: 'no target', req: 'POST /_replicate', body: { source: src }, status: 500, error: 'error', reason: 'Missing replicator database' },
    { name: 'a URL of another protocol', req: 'POST /_replicate', body: { source: 'ftp://x/y', target: src }, status: 400, couch: 500, error: 'invalid_replication', reason: 'endpoint has an invalid url' },
    { name: 'a URL that is none', req: 'POST /_replicate', body: { source: { url: 'http://a:b:c' }, target: src }, status: 400, error: 'invalid_replication', reason: 'endpoint has an invalid url' },
    { name: 'a proxy that is none', req: 'POST /_replicate', body: { source: src, target: src, proxy: 'ftp://x' }, status: 400, error: 'invalid_replication', reason: 'proxy has an invalid url' },
    { name: 'two kinds of proxies', req: 'POST /_replicate', body: { source: src, target: src, proxy: 'http://x', source_proxy: 'http://y' }, status: 400, error: 'bad_request', reason: '`proxy` is mutually exclusive with `source_proxy`' },
    ...['cancel', 'create_target', 'winning_revs_only', 'continuous', 'use_bulk_get'].map((flag) => ({
      name: `${flag} is no boolean`, req: 'POST /_replicate', body: { source: src, target: src, [flag]: 'yes' }, status: 400, error: 'bad_request', reason: `parameter \`${flag}\` must be a boolean`,
    })),
    { name: 'create_target_params is no object', req: 'POST /_replicate', body: { source: src, target: src, create_target_params: 1 }, status: 400, error: 'bad_request', reason: 'parameter `create_target_params` must be a JSON object' },
    { name: 'doc_ids is no array', req: 'POST /_replicate', body: { source: src, target: src, doc_ids: 'x' }, status: 400, error: 'bad_request', reason: 'parameter `doc_ids` must be an array' },
    { name: 'selector is no object', req: 'POST /_replicate', body: { source: src, target: src, selector: 'x' }, status: 400, error: 'bad_request', reason: 'parameter `selector` must be a JSON object' },
    { name: 'query_params is no object', req: 'POST /_replicate', body: { source: src, target: src, query_params: 'x' }, status: 400, error: 'bad_request', reason: 'parameter `query_params` must be an object' },
    { name: 'doc_ids and a selector', req: 'POST /_replicate', body: { source: src, target: src, doc_ids: ['x'], selector: {} }, status: 400, error: 'bad_request', reason: '`doc_ids`,`filter`,`selector` are mutually exclusive' },
    { name: 'a filter without a design document', req: 'POST /_replicate', body: { source: src, target: src, filter: 'x' }, status: 500, error: 'error', reason: 'Invalid filter. Must match `ddocname/filtername`.' },
    { name: 'cancelling an unknown id', req: 'POST /_replicate', body: { cancel: true, replication_id: 'none' }, status: 404, error: 'not_found', reason: 'missing' },
    { name: 'cancelling an unknown replication', req: 'POST /_replicate', body: { cancel: true, source: src, target: `${src}y` }, status: 404, error: 'not_found', reason: 'missing' },
    { name: 'an unknown job', req: 'GET /_scheduler/jobs/none', status: 404, error: 'not_found', reason: 'missing' },
    { name: 'an unknown document', req: 'GET /_scheduler/docs/_replicator/none', status: 404, error: 'not_found', reason: 'missing' },
    { name: 'a database that holds no replications', req: 'GET /_scheduler/docs/foo', status: 400, error: 'bad_request', reason: 'Invalid path' },
    { name: 'a path that is too long', req: 'GET /_scheduler/docs/_replicator/a/b', status: 400, error: 'bad_request', reason: 'Invalid path' },
    { name: 'an unknown state', req: 'GET /_scheduler/docs?states=asleep', status: 400, error: 'query_parse_error' },
    { name: 'a limit that is no number', req: 'GET /_scheduler/jobs?limit=x', status: 400, error: 'query_parse_error', reason: 'limit must be an integer' },
    { name: 'a negative limit', req: 'GET /_scheduler/jobs?limit=-1', status: 400, error: 'query_parse_error', reason: 'limit not in range of [0,infinity]' },
    { name: 'another method', req: 'POST /_scheduler/jobs', body: {}, status: 405, error: 'method_not_allowed', reason: 'Only GET,HEAD allowed' },
    { name: 'jobs are for admins', req: 'GET /_scheduler/jobs', as: null, status: 401, error: 'unauthorized' },
    { name: 'documents are for admins', req: 'GET /_scheduler/docs', as: null, status: 401, error: 'unauthorized' },
  ]);

  describe('once', () => {
    it('a source that is not there', async () => {
      const target = await api.db();
      const answer = await post({ source: there('nothing'), target });
      assert.equal(answer.status, 500, answer.text);
      like(answer.json, { error: 'db_not_found', reason: /could not open .*nothing/ });
      assert.ok(!answer.text.includes('pass'), answer.text);
    });

    it('pulls, and answers with the history', async () => {
      const [source, target] = [await other.db(), `${await api.db()}-copy`];
      await fill(other, source, 20);
      api.made.push(target);
      const first = await api.ok('POST /_replicate', { body: { source: there(source), target, create_target: true } });
      like(first, {
        ok: true, no_changes: undefined, session_id: /^[0-9a-f]{32}$/, source_last_seq: (seq) => String(seq).startsWith('20'), replication_id_version: 4,
        history: [{ session_id: first.session_id, start_time: /GMT$/, end_time: /GMT$/, start_last_seq: 0, missing_checked: 20, missing_found: 20, docs_read: 20, docs_written: 20, doc_write_failures: 0 }],
      });
      assert.equal(await count(api, target), 20);
      const again = await api.ok('POST /_replicate', { body: { source: there(source), target } });
      like(again, { ok: true, no_changes: true, session_id: first.session_id, history: Array });
      assert.equal((await jobs()).length, 0);
    });

    it('pushes', async () => {
      const [source, target] = [await api.db(), await other.db()];
      await fill(api, source, 20);
      await api.ok('POST /_replicate', { body: { source, target: there(target) } });
      assert.equal(await count(other, target), 20);
    });

    it('between two databases here', only, async () => {
      const [source, target] = [await api.db(), await api.db()];
      await fill(api, source, 20);
      like(await api.ok('POST /_replicate', { body: { source, target } }), { ok: true, history: [{ docs_written: 20 }] });
      assert.equal(await count(api, target), 20);
    });

    for (const [where, on, at, options] of [['of the other server', other, there, {}], ['of a database here', api, (name) => name, only]]) {
      it(`only some documents ${where}`, options, async () => {
        const source = await on.db();
        await fill(on, source, 10);
        await on.ok(`PUT /${source}/_design/f`, {
          body: {
            filters: { even: 'function (doc, req) { return doc.n % Number(req.query.by) === 0; }', deep: 'function (doc) { throw new Error("no"); }' },
            views: { small: { map: 'function (doc) { if (doc.n < 4) emit(doc.n, null); }' } },
          },
        });
        for (const [body, expected] of [
          [{ doc_ids: ['doc3', 'doc%34', 'none'] }, 2],
          [{ selector: { n: { $lt: 3 } } }, 3],
          [{ filter: 'f/even', query_params: { by: '5' } }, 2],
          [{ filter: '_view', query_params: { view: 'f/small' } }, 4],
          [{ filter: '_design' }, 1],
        ]) {
          const target = await api.db();
          await api.ok('POST /_replicate', { body: { source: at(source), target, ...body } });
          assert.equal(await count(api, target), expected, JSON.stringify(body));
        }
        const target = await api.db();
        const failed = await post({ source: at(source), target, filter: 'f/deep', retries_per_request: 0 });
        assert.ok(failed.status >= 400, failed.text);
        assert.equal(await count(api, target), 0, 'a filter that throws passes nothing');
      });
    }

    it('a filter that is not there', async () => {
      const [source, target] = [await other.db(), await api.db()];
      const answer = await post({ source: there(source), target, filter: 'f/none' });
      assert.equal(answer.status, 404, answer.text);
      like(answer.json, { error: 'not_found', reason: /_design\/f/ });
    });

    it('a wrong password', async () => {
      const [source, target] = [await other.db(), await api.db()];
      const url = new URL(there(source));
      url.password = 'wrong-secret';
      const answer = await post({ source: url.toString(), target });
      assert.equal(answer.status, 401, answer.text);
      assert.equal(answer.json.error, 'unauthorized');
      assert.ok(!answer.text.includes('wrong-secret'), answer.text);
    });
  });

  describe('continuous', () => {
    it('starts, is listed, copies what comes, and is cancelled', async () => {
      const [source, target] = [await other.db(), await api.db()];
      await fill(other, source, 6);
      const body = { source: there(source), target, continuous: true };
      const started = await post(body);
      assert.equal(started.status, 202, started.text);
      like(started.json, { ok: true, _local_id: /^[0-9a-f]{32}\+continuous$/ });
      const id = started.json._local_id;
      await until('the copy', async () => (await count(api, target)) === 6);
      const task = await until('the task', async () => (await api.ok('GET /_active_tasks')).find((one) => one.replication_id === id));
      like(task, {
        type: 'replication', user: String, database: null, doc_id: null, continuous: true, checkpoint_interval: 1000, node: String, pid: String, started_on: Number, updated_on: Number,
        docs_read: 6, docs_written: 6, doc_write_failures: 0, revisions_checked: 6, missing_revisions_found: 6, source_seq: /^6/, through_seq: /^6/,
      });
      assert.ok(!JSON.stringify(task).includes('pass'), JSON.stringify(task));
      const job = await api.ok(`GET /_scheduler/jobs/${encodeURIComponent(id)}`);
      like(job, { database: null, id, pid: String, source: new RegExp(`^http://127.0.0.1:\\d+/${source}/$`), user: String, doc_id: null, info: { docs_written: 6 }, history: (events) => events[0].type === 'started' && events[1].type === 'added', node: String, start_time: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/ });
      assert.deepEqual(Object.keys(job).sort(), ['database', 'doc_id', 'history', 'id', 'info', 'node', 'pid', 'source', 'start_time', 'target', 'user']);
      assert.equal((await post(body)).json._local_id, id, 'it is not started twice');
      like(await api.ok('GET /_scheduler/jobs'), { total_rows: 1, offset: 0, jobs: [{ id }] });
      like(await api.ok('GET /_scheduler/jobs?skip=1'), { total_rows: 1, offset: 1, jobs: [] });
      await fill(other, source, 3, 'more');
      await until('the rest', async () => (await count(api, target)) === 9);
      const cancelled = await post({ cancel: true, replication_id: id });
      assert.equal(cancelled.status, 200, cancelled.text);
      like(cancelled.json, { ok: true, _local_id: id });
      assert.equal((await post({ cancel: true, replication_id: id })).status, 404);
      assert.equal((await jobs()).length, 0);
    });

    it('is cancelled by its members', async () => {
      const [source, target] = [await other.db(), await api.db()];
      const body = { source: there(source), target, continuous: true };
      await post(body);
      assert.equal((await post({ ...body, cancel: true })).status, 200);
    });

    it('between two databases here follows each commit', only, async () => {
      const [source, target] = [await api.db(), await api.db()];
      const { json } = await post({ source, target, continuous: true });
      for (let n = 1; n <= 5; n += 1) {
        await api.ok(`PUT /${source}/d${n}`, { body: {} });
        await until('the copy', async () => (await count(api, target)) === n);
      }
      await post({ cancel: true, id: json._local_id });
    });
  });

  describe('users', () => {
    const joe = 'joe:early';
    before(async () => {
      await api.ok('PUT /_users/org.couchdb.user:joe', { body: { type: 'user', name: 'joe', password: 'early', roles: ['erlanger'] } });
    });

    it('only its user and admins cancel a replication', async () => {
      const [source, target] = [await other.db(), await api.db()];
      const { json } = await post({ source: there(source), target, continuous: true });
      const refused = await post({ cancel: true, replication_id: json._local_id }, { as: joe });
      assert.equal(refused.status, 401, refused.text);
      assert.equal(refused.json.error, 'unauthorized');
      assert.equal((await post({ cancel: true, replication_id: json._local_id })).status, 200);
    });

    it('databases here are read and written with the rights of the user', only, async () => {
      const [open, closed] = [await api.db(), await api.db()];
      await api.ok(`PUT /${open}/_security`, { body: { members: { names: ['joe'] } } });
      await fill(api, open, 1);
      await fill(api, closed, 1, 'secret');
      assert.equal((await post({ source: closed, target: open }, { as: joe })).status, 403);
      assert.equal((await post({ source: open, target: closed }, { as: joe })).status, 403);
      const made = await post({ source: open, target: `${open}-made`, create_target: true }, { as: joe });
      assert.ok(made.status === 401 || made.status === 403, made.text);
      assert.equal((await post({ source: '_users', target: open }, { as: joe })).status >= 401, true);
      assert.equal(await count(api, open), 1);
    });
  });

  describe('documents', () => {
    it('a replication that ends', async () => {
      const [source, target] = [await other.db(), await api.db()];
      await fill(other, source, 5);
      assert.equal((await put('once', { source: there(source), target })).status, 201);
      const found = await ended('once', 'completed');
      like(found, {
        owner: String, _replication_state_time: /^\d{4}-.*Z$/, _replication_state_reason: undefined,
        _replication_stats: { docs_read: 5, docs_written: 5, doc_write_failures: 0, revisions_checked: 5, missing_revisions_found: 5, changes_pending: 0, checkpointed_source_seq: /^5/, start_time: /Z$/ },
      });
      like(await state('once'), { database: '_replicator', doc_id: 'once', id: null, state: 'completed', error_count: 0, info: { docs_written: 5 }, start_time: /Z$/, last_updated: found._replication_state_time, source: new RegExp(`${source}/$`) });
      assert.equal(await count(api, target), 5);
      await fill(other, source, 5, 'new');
      const { _replication_state, _replication_state_time, _replication_stats, ...again } = found;
      assert.equal((await put('once', again)).status, 201);
      await until('the second copy', async () => (await count(api, target)) === 10);
      await ended('once', 'completed');
      await api.ok(`DELETE /_replicator/once?rev=${(await doc('once'))._rev}`);
    });

    it('a continuous one runs until its document is deleted', async () => {
      const [source, target] = [await other.db(), await api.db()];
      await put('live', { source: there(source), target, continuous: true });
      const shown = await inState('live', 'running');
      like(shown, { database: '_replicator', doc_id: 'live', id: /\+continuous$/, node: String, error_count: 0, source_proxy: null, target_proxy: null, last_updated: /Z$/, start_time: /Z$/ });
      assert.equal((await doc('live'))._replication_state, undefined, 'nothing is written while it runs');
      await fill(other, source, 2);
      await until('the copy', async () => (await count(api, target)) === 2);
      like((await jobs())[0], { database: '_replicator', doc_id: 'live' });
      await api.ok(`DELETE /_replicator/live?rev=${(await doc('live'))._rev}`);
      await until('the job to end', async () => (await jobs()).length === 0);
      assert.equal((await api.call('GET /_scheduler/docs/_replicator/live')).status, 404);
    });

    it('one that fails is tried again, and its state says why', async () => {
      const target = await api.db();
      await put('crashes', { source: there('nothing'), target });
      const shown = await inState('crashes', 'crashing');
      like(shown, { error_count: 1, info: { error: /^db_not_found: could not open/ } });
      const [job] = await jobs();
      assert.deepEqual(job.history.map((event) => event.type), ['crashed', 'started', 'added']);
      like(job, { pid: null, history: [{ reason: /db_not_found/ }, Object, Object] });
      like(await api.ok('GET /_scheduler/docs?states=crashing'), { docs: [{ doc_id: 'crashes' }] });
      like(await api.ok('GET /_scheduler/docs?states=running,pending'), { docs: [] });
      await api.ok(`DELETE /_replicator/crashes?rev=${(await doc('crashes'))._rev}`);
    });

    it('a filter that cannot be read is an error', async () => {
      const [source, target] = [await other.db(), await api.db()];
      await put('filter', { source: there(source), target, filter: 'f/none' });
      like(await inState('filter', 'error'), { id: null, error_count: 1, info: { error: /_design\/f/ } });
      await api.ok(`DELETE /_replicator/filter?rev=${(await doc('filter'))._rev}`);
    });

    it('two documents of one replication', async () => {
      const [source, target] = [await other.db(), await api.db()];
      const body = { source: there(source), target, continuous: true };
      await put('first', body);
      await inState('first', 'running');
      await put('second', body);
      const failed = await ended('second', 'failed');
      assert.match(failed._replication_state_reason, /^Replication `[0-9a-f]{32}\+continuous` specified by document `second` already started, triggered by document `first` from db `_replicator`$/);
      like(await state('second'), { state: 'failed', error_count: 1, info: { error: failed._replication_state_reason } });
      for (const id of ['first', 'second']) await api.ok(`DELETE /_replicator/${id}?rev=${(await doc(id))._rev}`);
    });

    it('one of another database, whose slash may be raw', async () => {
      const [source, target] = [await other.db(), await api.db()];
      const db = `${await api.db()}/_replicator`;
      await api.ok(`PUT /${encodeURIComponent(db)}`);
      await put('it', { source: there(source), target, continuous: true }, { db });
      await inState('it', 'running', db);
      like(await api.ok(`GET /_scheduler/docs/${encodeURIComponent(db)}`), { total_rows: 1, offset: 0, docs: [{ database: db, doc_id: 'it' }] });
      like(await api.ok(`GET /_scheduler/docs/${db}`), { docs: [{ doc_id: 'it' }] });
      await api.ok(`DELETE /${encodeURIComponent(db)}`);
      await until('the job to end', async () => (await jobs()).length === 0);
    });

    api.rows('wrong documents', [
      { name: 'no source', req: 'PUT /_replicator/wrong', body: { target: src }, status: 403, error: 'forbidden', reason: 'Missing replicator database' },
      { name: 'no URL', req: 'PUT /_replicator/wrong', body: { source: 'ftp://x/y', target: src }, status: 403, error: 'forbidden', reason: 'endpoint has an invalid url' },
      { name: 'no boolean', req: 'PUT /_replicator/wrong', body: { source: src, target: src, continuous: 1 }, status: 403, error: 'forbidden', reason: /parameter `continuous` must be a boolean/ },
      { name: 'a filter without a design document', req: 'PUT /_replicator/wrong', body: { source: src, target: src, filter: 'x' }, status: 403, error: 'forbidden', reason: 'Invalid filter. Must match `ddocname/filtername`.' },
      { name: 'in bulk', req: 'POST /_replicator/_bulk_docs', body: { docs: [{ _id: 'wrong' }] }, status: 201, like: [{ id: 'wrong', error: 'forbidden', reason: 'Missing replicator database' }] },
      { name: 'a design document', req: 'PUT /_replicator/_design/d', body: {}, status: 201 },
    ]);
  });

  describe('owners', () => {
    let db;
    let enc;
    const [ann, bob] = ['ann:a', 'bob:b'];
    const secret = 'http://user:sesame@127.0.0.1:1/x';
    before(async () => {
      for (const name of ['ann', 'bob']) {
        await api.ok(`PUT /_users/org.couchdb.user:${name}`, { body: { type: 'user', name, password: name[0], roles: [] } });
      }
      db = `${await api.db()}/_replicator`;
      enc = encodeURIComponent(db);
      await api.ok(`PUT /${enc}`);
      api.made.push(enc);
      await api.ok(`PUT /${enc}/_security`, { body: { members: { names: ['ann', 'bob'] } } });
    });

    it('is set, and nobody else changes the document', async () => {
      const headers = { Authorization: 'Bearer sesame' };
      const made = await put('mine', { source: secret, target: { url: src, headers, auth: { basic: { username: 'u', password: 'sesame' } } } }, { db, as: ann });
      assert.equal(made.status, 201, made.text);
      const found = await doc('mine', db);
      assert.equal(found.owner, 'ann');
      const stranger = await put('mine', { ...found, target: src }, { db, as: bob });
      assert.equal(stranger.status, 403, stranger.text);
      assert.equal(stranger.json.reason, "Can't update replication documents from other users.");
      const forged = await put('forged', { source: src, target: src, owner: 'ann' }, { db, as: bob });
      assert.equal(forged.status, 403);
      assert.equal((await put('mine', { ...found, x: 1 }, { db, as: ann })).status, 201);
      assert.equal((await put('mine', { ...(await doc('mine', db)), x: 2 }, { db })).status, 201, 'an admin does');
      assert.equal((await doc('mine', db)).owner, 'ann');
    });

    it('is not forged by replication either', only, async () => {
      const body = { new_edits: false, docs: [{ _id: 'new', _rev: '1-0123456789abcdef0123456789abcdef', source: 'a', target: 'b', owner: 'admin' }] };
      const answer = await api.call(`POST /${enc}/_bulk_docs`, { as: bob, body });
      like(answer.json, [{ id: 'new', error: 'forbidden' }]);
    });

    it('others see no passwords', async () => {
      const rev = (await doc('mine', db))._rev;
      const reads = [
        ['GET', `/${enc}/mine`], ['GET', `/${enc}/mine?open_revs=all`], ['GET', `/${enc}/mine?rev=${rev}`], ['GET', `/${enc}/mine?revs=true&conflicts=true`],
        ['POST', `/${enc}/_bulk_get`, { docs: [{ id: 'mine' }] }], ['POST', `/${enc}/_bulk_get?revs=true&latest=true`, { docs: [{ id: 'mine', rev }] }],
        ['GET', `/${enc}/_all_docs?include_docs=true`], ['POST', `/${enc}/_all_docs?include_docs=true`, { keys: ['mine'] }], ['GET', `/${enc}/_changes?include_docs=true`],
        ['POST', `/${enc}/_find`, { selector: {} }], ['POST', `/${enc}/_all_docs/queries`, { queries: [{ include_docs: true }] }],
        ['POST', `/${enc}/_changes?filter=_selector`, { selector: { source: { $regex: 'sesame' } } }],
      ];
      for (const [method, path, body] of reads) {
        const send = { Accept: 'application/json' };
        const answer = await api.call(`${method} ${path}`, { as: bob, body, send });
        assert.ok(!answer.text.includes('sesame'), `${method} ${path}: ${answer.text}`);
        const own = await api.call(`${method} ${path}`, { body, send });
        assert.ok(own.text.includes('sesame') || path.includes('_selector') || own.status !== 200, `an admin sees it: ${path} ${own.text}`);
      }
      const seen = (await api.call(`GET /${enc}/mine`, { as: bob })).json;
      like(seen, { owner: 'ann', source: 'http://127.0.0.1:1/x', target: { url: src, headers: undefined, auth: undefined } });
      assert.notEqual(seen._rev, rev);
      assert.equal((await api.call(`GET /${enc}/mine`, { as: ann })).json._rev, rev);
      const copied = await api.call(`COPY /${enc}/mine`, { as: bob, send: { Destination: 'stolen' } });
      if (copied.status === 201) assert.ok(!JSON.stringify(await doc('stolen', db)).includes('sesame'));
    });

    it('a job has the rights of its owner', only, async () => {
      const [source, target] = [await api.db(), await api.db()];
      await api.ok(`PUT /${target}/_security`, { body: { members: { names: ['ann'] } } });
      await fill(api, source, 2);
      await put('reads', { source, target }, { db, as: ann });
      like(await inState('reads', 'crashing', db), { info: { error: /^(forbidden|unauthorized)/ } });
      assert.equal(await count(api, target), 0);
      await api.ok(`PUT /${source}/_security`, { body: { members: { names: ['ann'] } } });
      await put('reads', { ...(await doc('reads', db)), again: 1 }, { db, as: ann });
      await ended('reads', 'completed', db);
      assert.equal(await count(api, target), 2);
    });
  });

  describe('restarts', { skip: !!external }, () => {
    it('a killed server goes on with its documents, and with nothing that has ended', async () => {
      const [source, target, done] = [await other.db(), await api.db(), await api.db()];
      await fill(other, source, 3);
      await put('ends', { source: there(source), target: done });
      await ended('ends', 'completed');
      await put('lives', { source: there(source), target, continuous: true });
      await until('the copy', async () => (await count(api, target)) === 3);
      await post({ source: there(source), target: done, continuous: true });
      await api.server.restart('SIGKILL');
      await fill(other, source, 3, 'more');
      // On a shared store, the documents of `_replicator` rest until the lease of the killed server has ended.
      await until('the rest', async () => (await count(api, target)) === 6, 90);
      const left = (await jobs()).filter((job) => job.database === '_replicator' || job.database === null);
      assert.deepEqual(left.map((job) => job.doc_id), ['lives'], 'a replication of _replicate ends with the server');
      assert.equal(await count(api, done), 3);
      for (const id of ['ends', 'lives']) await api.ok(`DELETE /_replicator/${id}?rev=${(await doc(id))._rev}`);
    });

    it('update_docs writes all states', async () => {
      await api.ok('PUT /_node/_local/_config/replicator/update_docs', { body: '"true"' });
      const [source, target] = [await other.db(), await api.db()];
      await put('told', { source: there(source), target, continuous: true });
      const triggered = await ended('told', 'triggered');
      like(triggered, { _replication_id: /\+continuous$/ });
      await put('broken', { source: there('nothing'), target });
      like(await ended('broken', 'error'), { _replication_state_reason: /db_not_found/ });
      await api.ok('PUT /_node/_local/_config/replicator/update_docs', { body: '"false"' });
      for (const id of ['told', 'broken']) {
        await until(`${id} to be deleted`, async () => (await api.call(`DELETE /_replicator/${id}?rev=${(await doc(id))._rev}`)).status === 200);
      }
    });
  });
}, { env });
