// Several nodes on one PostgreSQL: what one of them writes holds on all others, and a killed node loses nothing that it has
// acknowledged. Run with `protocol-tests/run.sh postgres`.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe, it, before, after, assert, Api, like } from '../harness/rows.js';
import { until } from '../harness/server.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));

assert.ok(process.env.SETTEE_TEST_STORE, 'SETTEE_TEST_STORE names no PostgreSQL: run protocol-tests/run.sh postgres');

describe('several nodes on one PostgreSQL', () => {
  const first = new Api();
  const second = new Api({ schema: first.server.schema });
  const third = new Api({ schema: first.server.schema });
  const nodes = [first, second, third];

  before(() => Promise.all(nodes.map((node) => node.start())));
  after(() => Promise.all(nodes.map((node) => node.stop())));

  it('have one uuid, and take the sessions of each other', async () => {
    const uuids = await Promise.all(nodes.map(async (node) => (await node.ok('GET /')).uuid));
    assert.equal(new Set(uuids).size, 1);
    const json = { 'Content-Type': 'application/json' };
    const { username: name, password } = new URL(first.server.address);
    const signed = await first.call('POST /_session', { as: null, send: json, body: { name, password: decodeURIComponent(password) } });
    assert.equal(signed.status, 200, signed.text);
    const Cookie = String(signed.headers['set-cookie']).split(';')[0];
    const there = await second.call('GET /_session', { as: null, send: { Cookie } });
    assert.equal(there.json.userCtx.name, name);
  });

  it('read at once what another has written', async () => {
    const db = await first.db();
    for (let n = 0; n < 20; n++) {
      const [here, there] = [nodes[n % 3], nodes[(n + 1) % 3]];
      const { rev } = await here.ok(`PUT /${db}/doc${n}`, { body: { n } });
      like(await there.ok(`GET /${db}/doc${n}`), { _rev: rev, n });
      assert.equal((await there.ok(`GET /${db}`)).doc_count, n + 1);
    }
    await first.ok(`PUT /${db}/_local/x`, { body: { y: 1 } });
    like(await second.ok(`GET /${db}/_local/x`), { y: 1 });
    await second.ok(`PUT /${db}/with/a.bin`, { body: Buffer.alloc(700_000, 7), send: { 'Content-Type': 'x/y' } });
    assert.equal((await third.call(`GET /${db}/with/a.bin`)).headers['content-length'], '700000');
  });

  it('wake the feeds of each other', async () => {
    const db = await first.db();
    const feeds = nodes.map((node) => node.call(`GET /${db}/_changes?feed=longpoll&since=now&timeout=30000`));
    await until('the feeds to wait', async () => {
      const waiting = await Promise.all(nodes.map((node) => node.ok('GET /_node/_local/_stats/couchdb/httpd/clients_requesting_changes')));
      return waiting.every(({ value }) => value === 1);
    });
    await second.ok(`PUT /${db}/a`, { body: {} });
    for (const { json } of await Promise.all(feeds)) assert.equal(json.results[0].id, 'a');
  });

  it('know the rights, passwords, validations and views that another has written', async () => {
    const db = await first.db();
    await first.ok('PUT /_users/org.couchdb.user:ann', { body: { name: 'ann', password: 'one', type: 'user', roles: [] } });
    const as = 'ann:one';
    const reads = async (node, user = as) => (await node.call(`GET /${db}`, { as: user })).status;
    assert.equal(await reads(second), 403);
    await third.ok(`PUT /${db}/_security`, { body: { members: { names: ['ann'] } } });
    assert.deepEqual(await Promise.all(nodes.map((node) => reads(node))), [200, 200, 200]);
    await second.ok(`PUT /${db}/_design/app`, {
      body: { views: { n: { map: 'function (doc) { emit(doc.n); }' } }, validate_doc_update: 'function (doc) { if (doc.bad) throw { forbidden: "bad" }; }' },
    });
    assert.equal((await first.call(`PUT /${db}/bad`, { body: { bad: true } })).status, 403);
    await first.ok(`PUT /${db}/good`, { body: { n: 1 } });
    for (const node of nodes) assert.equal((await node.ok(`GET /${db}/_design/app/_view/n?key=1`)).rows.length, 1);
    const user = await first.ok('GET /_users/org.couchdb.user:ann');
    // Its head has come: the feed was asked for with the old password.
    const feed = await second.lines(`GET /${db}/_changes?feed=longpoll&since=now&timeout=60000`, { as });
    assert.equal(feed.status, 200);
    await first.ok('PUT /_users/org.couchdb.user:ann', { body: { ...user, password: 'two' } });
    assert.equal(await reads(second), 401);
    assert.equal(await reads(third, 'ann:two'), 200);
    while ((await feed.next(30)) !== null);
  });

  it('never serve a database that another has deleted and made again', async () => {
    const db = await first.db();
    await first.ok(`PUT /${db}/a`, { body: {} });
    for (const node of nodes) await node.ok(`GET /${db}/a`);
    for (let n = 0; n < 5; n++) {
      const [here, there] = [nodes[n % 3], nodes[(n + 1) % 3]];
      await here.ok(`DELETE /${db}`);
      assert.equal((await there.call(`GET /${db}`)).status, 404);
      await there.ok(`PUT /${db}`);
      for (const node of nodes) assert.equal((await node.call(`GET /${db}/a`)).status, 404);
      await here.ok(`PUT /${db}/a`, { body: { n } });
      for (const node of nodes) like(await node.ok(`GET /${db}/a`), { n });
    }
  });

  it('write the same document, database and _security at once, and nothing is lost', async () => {
    const db = await first.db();
    const writes = nodes.flatMap((node, at) => Array.from({ length: 20 }, (_, n) => node.call(`PUT /${db}/own-${at}-${n}`, { body: {} })));
    const same = Array.from({ length: 30 }, (_, n) => nodes[n % 3].call(`PUT /${db}/same`, { body: { n } }));
    const security = nodes.map((node, at) => node.call(`PUT /${db}/_security`, { body: { members: { names: [`n${at}`] } } }));
    const made = nodes.map((node) => node.call(`PUT /${db}-once`));
    for (const { status, text } of await Promise.all([...writes, ...security])) assert.ok(status < 300, text);
    assert.deepEqual((await Promise.all(same)).map(({ status }) => status).sort().slice(0, 2), [201, 409], 'one of them wins');
    assert.deepEqual((await Promise.all(made)).map(({ status }) => status).sort(), [201, 412, 412]);
    for (const node of nodes) assert.equal((await node.ok(`GET /${db}`)).doc_count, 61);
    const seen = await Promise.all(nodes.map(async (node) => JSON.stringify((await node.ok(`GET /${db}/_changes`)).results)));
    assert.equal(new Set(seen).size, 1, 'one order of changes');
  });

  it('that are killed leave no event out of _db_updates', async () => {
    const node = new Api({ schema: first.server.schema });
    await node.start();
    try {
      const [before, written] = [await node.db(), await node.db()];
      const { last_seq: since } = await first.ok('GET /_db_updates');
      const updated = async () => (await first.ok(`GET /_db_updates?since=${since}`)).results.filter(({ type }) => type === 'updated').map(({ db_name: name }) => name);
      // The next event is written a quarter of a second after this one.
      await node.ok(`PUT /${before}/a`, { body: {} });
      await until('the first event', async () => (await updated()).includes(before));
      await node.ok(`PUT /${written}/a`, { body: {} });
      await node.server.kill();
      await until('the event of the killed node', async () => (await updated()).includes(written), 60);
    } finally {
      await node.stop();
      node.server.remove();
    }
  });

  it('close the store of their indexes when they stop', async () => {
    const node = new Api({ schema: first.server.schema });
    await node.start();
    try {
      const db = await node.db();
      await node.ok(`PUT /${db}/_design/d`, { body: { views: { v: { map: 'function (doc) { emit(doc._id); }' } } } });
      await node.ok(`PUT /${db}/doc`, { body: {} });
      const file = join(node.server.folder, 'data', 'scratch', 'indexes', 'store-1', 'settee.redb');
      for (let round = 0; round < 3; round += 1) {
        assert.equal((await node.ok(`GET /${db}/_design/d/_view/v`)).rows.length, 1);
        node.server.child.kill('SIGTERM');
        assert.equal((await node.server.exited).code, 0);
        // redb's header: bit 1 of byte 9 says that the file was not closed.
        assert.equal(readFileSync(file)[9] & 2, 0, `round ${round}`);
        await node.server.restart();
      }
    } finally {
      await node.stop();
    }
  });

  it('that are killed lose nothing acknowledged, and clients go on with the others', async () => {
    const db = await first.db();
    const acknowledged = [];
    let stop = false;
    const writer = async (at) => {
      for (let n = 0; !stop; n++) {
        const id = `w${at}-${n}`;
        const answer = await nodes[(at + n) % 3].call(`PUT /${db}/${id}`, { body: { n } }).catch(() => null);
        if (answer?.status === 201) acknowledged.push(id);
      }
    };
    const writers = [0, 1, 2, 3].map(writer);
    for (let round = 0; round < 4; round++) {
      const node = nodes[round % 3];
      const wanted = acknowledged.length + 40;
      await until('writes', () => acknowledged.length >= wanted, 60);
      await node.server.kill();
      await node.server.start();
    }
    stop = true;
    await Promise.all(writers);
    const listed = new Set((await first.ok(`GET /${db}/_all_docs`)).rows.map(({ id }) => id));
    assert.deepEqual(acknowledged.filter((id) => !listed.has(id)), []);
    const pouches = await Promise.all(nodes.map(async (node, at) => {
      const pouch = new PouchDB(`${db}-${at}`, { adapter: 'memory' });
      await pouch.put({ _id: `pouch${at}` });
      await pouch.sync(`${node.server.address}/${db}`);
      return pouch;
    }));
    for (const [at, pouch] of pouches.entries()) await pouch.sync(`${nodes[(at + 1) % 3].server.address}/${db}`);
    for (const pouch of pouches) assert.equal((await pouch.info()).doc_count, listed.size + 3);
    for (const pouch of pouches) await pouch.destroy();
  });
});
