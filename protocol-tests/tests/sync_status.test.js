// `_sync`: which clients replicate, how far they are, and what was refused (docs/console-api.md), with stock PouchDBs.

import { createRequire } from 'node:module';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { external, until } from '../harness/server.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));

const skip = external ? 'CouchDB has no such endpoints' : false;

describe('GET /_sync', { skip }, () => {
  const api = new Api();
  const locals = [];
  before(async () => {
    await api.start();
    for (const name of ['ann', 'bob']) await api.ok(`PUT /_users/org.couchdb.user:${name}`, { body: { name, password: 'pass', roles: ['team'], type: 'user' } });
    await api.ok('PUT /notes');
    await api.ok('PUT /notes/_security', { body: { members: { roles: ['team'] } } });
    const validate = 'function (doc) { if (doc.secret) throw {forbidden: "No secrets here."}; }';
    await api.ok('PUT /notes/_design/rules', { body: { validate_doc_update: validate } });
  });
  after(async () => {
    await Promise.all(locals.map((local) => local.destroy()));
    await api.stop();
  });

  const local = () => {
    const made = new PouchDB(`sync-status-${locals.length}-${Date.now()}`, { adapter: 'memory' });
    locals.push(made);
    return made;
  };
  /** A remote database as one device of a user sees it. */
  const remote = (user, device) => new PouchDB(`${api.base}/notes`, {
    auth: { username: user, password: 'pass' }, skip_setup: true,
    fetch: (url, options) => {
      options.headers.set('X-Settee-Device', device);
      return PouchDB.fetch(url, options);
    },
  });
  const status = async (query = '', as) => (await api.ok(`GET /_sync/status${query}`, { as })).rows;
  const of = async (user, device) => (await status(`?user=${user}`)).find((row) => row.device_name === device);
  const write = (count, name) => api.ok('POST /notes/_bulk_docs', { body: { docs: Array.from({ length: count }, (_, at) => ({ _id: `${name}${at}` })) } });

  it('is empty before anybody replicates', async () => {
    await write(10, 'first');
    await api.ok('GET /notes/_changes');
    const { since, ...answer } = await api.ok('GET /_sync/status');
    assert.ok(Math.abs(since - Date.now()) < 600_000);
    assert.deepEqual([answer.total, answer.next, answer.rows], [0, null, []]);
    const { alerts } = await api.ok('GET /_sync/alerts');
    assert.deepEqual(alerts, []);
    const history = await api.ok('GET /_sync/history');
    assert.deepEqual([history.step, history.events], [600_000, []]);
    assert.ok(history.buckets.every(({ pulls, clients }) => pulls === 0 && clients === 0));
  });

  it('says how far a client is that pulls once', async () => {
    const phone = local();
    const far = remote('ann', 'phone');
    await phone.replicate.from(far);
    const { update_seq: now } = await api.ok('GET /notes');
    const row = await of('ann', 'phone');
    assert.deepEqual([row.user, row.device, row.live, row.online, row.address], ['ann', null, false, true, '127.0.0.1']);
    const [db] = row.databases;
    assert.deepEqual([row.databases.length, db.db, db.direction, db.behind, db.behind_exact], [1, 'notes', 'pull', 0, true]);
    assert.deepEqual([db.checkpoint, db.update_seq, db.exists], [now, now, true]);
    assert.ok(db.checkpoint_id && db.checkpoint_at >= row.first_seen && db.bytes_sent > 100);
    assert.equal(db.documents_sent, 11);
    await write(7, 'second');
    const [later] = (await of('ann', 'phone')).databases;
    assert.deepEqual([later.behind, later.behind_exact, later.checkpoint], [7, true, now]);
    await write(150, 'third');
    const [far2] = (await of('ann', 'phone')).databases;
    assert.deepEqual([far2.behind, far2.behind_exact], [157, false]);
  });

  it('says which clients are live, and that they stop', async () => {
    const laptop = local();
    const sync = laptop.sync(remote('ann', 'laptop'), { live: true, retry: true });
    try {
      await until('the laptop to be live and up to date', async () => {
        const row = await of('ann', 'laptop');
        return row?.live && row.online && row.databases[0].live && row.databases[0].behind === 0;
      });
      await write(3, 'live');
      await until('the new documents to arrive', async () => {
        const [db] = (await of('ann', 'laptop')).databases;
        return db.behind === 0 && db.documents_sent === 171 && db.last_seq === db.update_seq;
      });
      await laptop.put({ _id: 'from the laptop' });
      await until('the pushed document to be counted', async () => {
        const [db] = (await of('ann', 'laptop')).databases;
        return db.documents_received === 1 && db.direction === 'both' && db.push_checkpoint !== null;
      });
    } finally {
      sync.cancel();
    }
    await until('the feed to end', async () => !(await of('ann', 'laptop')).live);
  });

  it('names the documents that were refused, and how often', async () => {
    const tablet = local();
    await tablet.bulkDocs([{ _id: 'fine' }, { _id: 'secret 1', secret: true }, { _id: 'secret 2', secret: true }]);
    const far = remote('bob', 'tablet');
    await tablet.replicate.to(far);
    const [db] = (await of('bob', 'tablet')).databases;
    assert.deepEqual([db.documents_received, db.refused_total, db.direction], [3, 2, 'push']);
    assert.deepEqual(db.refused.map(({ id, error, reason, count }) => [id, error, reason, count]).sort(),
      ['secret 1', 'secret 2'].map((id) => [id, 'forbidden', 'No secrets here.', 1]));
    const { _rev } = await tablet.get('secret 1');
    await tablet.put({ _id: 'secret 1', _rev, secret: true });
    await tablet.replicate.to(far);
    const [again] = (await of('bob', 'tablet')).databases;
    assert.deepEqual([again.refused_total, again.refused[0].id, again.refused[0].count], [3, 'secret 1', 2]);
    const { alerts } = await api.ok('GET /_sync/alerts');
    const alert = alerts.find(({ kind }) => kind === 'pushes_refused');
    assert.deepEqual([alert.user, alert.db, alert.severity, alert.count, alert.client], ['bob', 'notes', 'warning', 3, 'tablet']);
    assert.match(alert.text, /secret 1 2 times in notes: No secrets here\./);
  });

  it('knows a device that has signed in by its id', async () => {
    const { headers } = await api.call('POST /_session', { as: null, body: { name: 'ann', password: 'pass' }, send: { 'X-Settee-Device': 'browser' } });
    const cookie = [headers['set-cookie']].flat()[0].split(';')[0];
    const far = new PouchDB(`${api.base}/notes`, {
      skip_setup: true,
      fetch: (url, options) => {
        options.headers.set('Cookie', cookie);
        options.headers.set('X-Settee-Device', 'browser');
        return PouchDB.fetch(url, options);
      },
    });
    await local().replicate.from(far);
    const row = await of('ann', 'browser');
    const { devices } = await api.ok('GET /_session/devices?user=ann');
    assert.equal(row.device, devices.find(({ name }) => name === 'browser').id);
    assert.equal(row.databases[0].checkpoint, devices.find(({ name }) => name === 'browser').databases.notes);
  });

  it('counts a request that failed as an error, with its reason', async () => {
    await api.ok('PUT /notes/_security', { body: { members: { names: ['bob'], roles: [] } } });
    await assert.rejects(local().replicate.from(remote('ann', 'phone')));
    await api.ok('PUT /notes/_security', { body: { members: { roles: ['team'] } } });
    const [db] = (await of('ann', 'phone')).databases;
    assert.ok(db.errors >= 1);
    assert.deepEqual([db.last_error.status, db.last_error.reason], [403, 'You are not allowed to access this db.']);
  });

  it('shows a user his own clients, and nobody else', async () => {
    const rows = await status('', 'ann:pass');
    assert.deepEqual([...new Set(rows.map(({ user }) => user))], ['ann']);
    assert.ok(rows.length >= 3 && rows.every((row) => !('address' in row)));
    assert.deepEqual(await status('?user=ann', 'ann:pass'), await status('', 'ann:pass'));
    for (const path of ['status', 'history', 'alerts']) {
      assert.equal((await api.call(`GET /_sync/${path}?user=bob`, { as: 'ann:pass' })).status, 403);
      assert.equal((await api.call(`GET /_sync/${path}`, { as: null })).status, 401);
    }
    const { alerts } = await api.ok('GET /_sync/alerts', { as: 'ann:pass' });
    assert.ok(!alerts.some(({ user }) => user !== 'ann'));
    const history = await api.ok('GET /_sync/history', { as: 'ann:pass' });
    assert.equal(history.step, 3_600_000);
    assert.ok(history.events.length > 0 && history.events.every(({ user }) => user === 'ann'));
    const sum = (buckets, name) => buckets.reduce((total, bucket) => total + bucket[name], 0);
    assert.equal(sum(history.buckets, 'refused'), 0);
    const bobs = await api.ok('GET /_sync/history?user=bob');
    assert.equal(sum(bobs.buckets, 'refused'), 3);
    const all = await api.ok('GET /_sync/history?hours=1');
    assert.equal(sum(all.buckets, 'refused'), 3);
    assert.ok(sum(all.buckets, 'documents_sent') > 171);
    const kinds = new Set(all.events.map(({ kind }) => kind));
    for (const kind of ['first_seen', 'refused', 'error']) assert.ok(kinds.has(kind), kind);
  });

  it('filters, pages and refuses wrong parameters', async () => {
    const all = await status();
    const paged = [];
    let next = '';
    do {
      const page = await api.ok(`GET /_sync/status?limit=2${next && `&bookmark=${next}`}`);
      paged.push(...page.rows.map(({ user, device_name: name }) => [user, name]));
      ({ next } = page);
    } while (next !== null);
    assert.deepEqual(paged, all.map(({ user, device_name: name }) => [user, name]));
    assert.deepEqual(await status('?db=other'), []);
    assert.equal((await status('?db=notes')).length, all.length);
    for (const path of ['status?limit=0', 'status?limit=1001', 'status?bookmark=x', 'history?hours=0', 'history?hours=25']) {
      assert.equal((await api.call(`GET /_sync/${path}`)).status, 400, path);
    }
    assert.equal((await api.call('POST /_sync/status', { body: {} })).status, 405);
    assert.equal((await api.call('GET /_sync/other')).status, 404);
  });

  it('forgets a deleted database, and keeps what its clients did', async () => {
    await api.ok('DELETE /notes');
    const [row] = await status('?user=bob');
    const [db] = row.databases;
    assert.deepEqual([db.exists, db.update_seq, db.behind, db.refused_total], [false, null, null, 3]);
    assert.deepEqual((await api.ok('GET /_sync/alerts')).alerts, []);
  });
});
