// Behind a reverse proxy. docs/proxies.md has the configurations of nginx, Caddy, HAProxy and Traefik that were tried
// by hand; here a small proxy does what nginx does with its defaults.

import { randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { suite, describe, it, assert, before, after } from '../harness/rows.js';
import { lines } from '../harness/http.js';
import { ADMIN, PASSWORD, external, until } from '../harness/server.js';
import { ReverseProxy } from '../harness/reverse_proxy.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));

suite('behind a proxy', (api) => {
  api.rows('feeds ask proxies not to collect what they send', [
    { name: 'a document', req: 'PUT /{db}/a', body: {}, status: 201, headers: { 'X-Accel-Buffering': null } },
    { name: 'a normal feed is an answer like others', req: 'GET /{db}/_changes', status: 200, headers: { 'X-Accel-Buffering': null } },
    ...['longpoll', 'continuous', 'eventsource'].map((feed) => ({
      name: feed,
      skip: !!external,
      req: `GET /{db}/_changes?feed=${feed}&timeout=1`,
      status: 200,
      headers: { 'X-Accel-Buffering': 'no' },
    })),
    { name: '_db_updates', skip: !!external, req: 'GET /_db_updates?feed=continuous&timeout=1', status: 200, headers: { 'X-Accel-Buffering': 'no' } },
  ]);

  it('a proxy that is not trusted is named in the log, once, and lockout tells how long it lasts', { skip: !!external }, async () => {
    const send = { 'X-Forwarded-For': '203.0.113.9' };
    await api.call('GET /', { send });
    await api.call('GET /', { send });
    await until('the hint', () => /requests from 127.0.0.1 have X-Forwarded-For/.test(api.server.log()));
    for (let n = 0; n < 5; n += 1) await api.call('GET /_session', { send, as: 'ann:wrong' });
    const locked = await api.call('GET /_session', { send, as: 'ann:wrong' });
    assert.equal(locked.status, 403);
    assert.ok(Number(locked.headers['retry-after']) > 0);
    assert.match(locked.json.hint, /The right password is refused as well/);
    await until('the log', () => /sign-ins of this user from this address are refused for \d+ s/.test(api.server.log()));
    assert.equal(api.server.log().split('have X-Forwarded-For').length - 1, 1);
  });

  it('a refused preflight is named in the log, once for an origin', { skip: !!external }, async () => {
    const ask = (origin) => api.call('OPTIONS /', { as: null, send: { Origin: origin, 'Access-Control-Request-Method': 'PUT' } });
    await ask('https://app.example.com');
    await ask('https://app.example.com');
    await ask('http://localhost:5173');
    await until('the log', () => /a page may not use this server: its origin is not in cors\/origins/.test(api.server.log()));
    assert.equal(api.server.log().split('a page may not use this server').length - 1, 1);
  });

  for (const prefix of ['', '/sync']) {
    describe(`at ${prefix || 'the root'}`, () => {
      let proxy;
      before(async () => (proxy = await new ReverseProxy(api.server.port, prefix).start()));
      after(() => proxy.stop());

      it('a continuous feed delivers rows and heartbeats', async () => {
        const db = await api.db();
        const feed = await lines(proxy.base, { path: `${prefix}/${db}/_changes?feed=continuous&heartbeat=200&include_docs=true`, headers: api.headers() });
        await api.ok(`PUT /${db}/a`, { body: { n: 1 } });
        assert.equal(JSON.parse(await feed.row()).doc.n, 1);
        feed.close();
      });

      it('two devices sync live, with a large attachment, both ways', async () => {
        const db = await api.db();
        const auth = { username: ADMIN, password: PASSWORD };
        const devices = ['phone', 'laptop'].map((name) => new PouchDB(`${name}${prefix}${db}`, { adapter: 'memory' }));
        const syncs = devices.map((device) => device.sync(new PouchDB(`${proxy.base}/${db}`, { auth, skip_setup: true }), { live: true, retry: true }));
        try {
          const content = randomBytes(2 << 20);
          await devices[0].put({ _id: 'photo', _attachments: { 'a.bin': { content_type: 'application/octet-stream', data: content.toString('base64') } } });
          await devices[1].put({ _id: 'note', text: 'from the laptop' });
          const has = (device, id) => device.get(id, { attachments: true }).catch(() => null);
          const photo = await until('the photo on the laptop', () => has(devices[1], 'photo'));
          assert.ok(Buffer.from(photo._attachments['a.bin'].data, 'base64').equals(content));
          assert.equal((await until('the note on the phone', () => has(devices[0], 'note'))).text, 'from the laptop');
        } finally {
          for (const sync of syncs) sync.cancel();
          // A request that is under way when a sync is cancelled may still fail.
          await Promise.allSettled(syncs);
        }
      });
    });
  }
});
