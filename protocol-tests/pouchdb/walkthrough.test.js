// The life of an app with accounts, from sign-up to "sign out everywhere", with unmodified PouchDB against
// the real binary: two users, one with two devices and one with one, a database per user, and a list that one
// user shares with the other.

import { createRequire } from 'node:module';
import { randomBytes } from 'node:crypto';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { until, external } from '../harness/server.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));

/** One device of one user, with its session cookie and its local databases. */
class Device {
  constructor(api, name) {
    this.api = api;
    this.name = name;
    this.opened = [];
    this.syncs = [];
  }

  async signIn(user, password) {
    const answer = await this.api.call('POST /_session', { as: null, body: { name: user, password }, send: { 'X-Settee-Device': this.name } });
    assert.equal(answer.status, 200, answer.text);
    assert.deepEqual(answer.json, { ok: true, name: user, roles: [] });
    this.cookie = answer.headers['set-cookie'][0].split(';')[0];
  }

  /** Sends a request with this device's cookie. */
  async call(req, options = {}) {
    return this.api.call(req, { as: null, ...options, send: { Cookie: this.cookie, 'X-Settee-Device': this.name, ...options.send } });
  }

  remote(database) {
    return new PouchDB(`${this.api.base}/${database}`, {
      skip_setup: true,
      fetch: async (url, options) => {
        options.headers.set('Cookie', this.cookie);
        options.headers.set('X-Settee-Device', this.name);
        const answer = await PouchDB.fetch(url, options);
        const renewed = answer.headers.get('set-cookie');
        if (renewed?.startsWith('AuthSession=') && !renewed.startsWith('AuthSession=;')) this.cookie = renewed.split(';')[0];
        return answer;
      },
    });
  }

  local() {
    const db = new PouchDB(`w${randomBytes(6).toString('hex')}`, { adapter: 'memory' });
    this.opened.push(db);
    return db;
  }

  /** Starts a live sync with retries. The result's `failed` is the error that ended it, or null. */
  live(local, database) {
    const sync = local.sync(this.remote(database), { live: true, retry: true });
    const watched = { failed: null, cancel: () => sync.cancel() };
    sync.on('error', (error) => (watched.failed = error));
    sync.on('denied', (denied) => (watched.failed ??= denied));
    sync.catch(() => {});
    this.syncs.push(watched);
    return watched;
  }

  async close() {
    for (const sync of this.syncs) sync.cancel();
    await Promise.all(this.opened.map((db) => db.destroy().catch(() => {})));
  }
}

const perUser = (name) => `userdb-${Buffer.from(name).toString('hex')}`;

describe('an app with accounts, from sign-up to "sign out everywhere"', { skip: !!external }, () => {
  const api = new Api({ env: { SETTEE_COUCH_PERUSER__ENABLE: 'true', SETTEE_CHTTPD_AUTH__ALLOW_SIGN_UP: 'true', SETTEE_CHTTPD_AUTH__ITERATIONS: '5000' } });
  const phone = new Device(api, "Ann's phone");
  const laptop = new Device(api, "Ann's laptop");
  const tablet = new Device(api, "Ben's tablet");
  const devices = [phone, laptop, tablet];
  const shared = 'list-holidays';
  let onPhone;
  let onLaptop;
  let listOnLaptop;
  let listOnTablet;

  before(async () => {
    await api.start();
    [onPhone, onLaptop, listOnLaptop, listOnTablet] = [phone.local(), laptop.local(), laptop.local(), tablet.local()];
  });
  after(async () => {
    await Promise.all(devices.map((device) => device.close()));
    await api.stop();
  });

  it('two users sign up', async () => {
    for (const [name, password] of [['ann', 'anns long password'], ['ben', 'bens long password']]) {
      const body = { _id: `org.couchdb.user:${name}`, name, password, type: 'user', roles: [] };
      assert.equal((await api.call(`PUT /_users/org.couchdb.user:${name}`, { as: null, body })).status, 201);
      const greedy = { ...body, _id: `org.couchdb.user:${name}2`, name: `${name}2`, roles: ['_admin'] };
      assert.equal((await api.call(`PUT /_users/org.couchdb.user:${name}2`, { as: null, body: greedy })).status, 403);
    }
    const taken = { _id: 'org.couchdb.user:ann', name: 'ann', password: 'x', type: 'user', roles: [] };
    assert.equal((await api.call('PUT /_users/org.couchdb.user:ann', { as: null, body: taken })).status, 409);
  });

  it('ann signs in on two devices, ben on one device', async () => {
    await phone.signIn('ann', 'anns long password');
    await laptop.signIn('ann', 'anns long password');
    await tablet.signIn('ben', 'bens long password');
    const { devices: listed } = (await laptop.call('GET /_session/devices')).json;
    assert.deepEqual(listed.map(({ name }) => name).sort(), ["Ann's laptop", "Ann's phone"]);
    assert.equal(listed.find(({ name }) => name === "Ann's laptop").current, true);
    assert.deepEqual((await tablet.call('GET /_session/devices')).json.devices.map(({ name }) => name), ["Ben's tablet"]);
  });

  it("ann's own database syncs between her devices, and no other user can access it", async () => {
    await until('the database of ann', async () => (await phone.call(`GET /${perUser('ann')}`)).status === 200);
    phone.live(onPhone, perUser('ann'));
    laptop.live(onLaptop, perUser('ann'));
    await onPhone.put({ _id: 'packing', items: ['socks'] });
    const doc = await until('the laptop to have it', () => onLaptop.get('packing').catch(() => null));
    await onLaptop.put({ ...doc, items: ['socks', 'boots'] });
    await until('the phone to have the edit', async () => (await onPhone.get('packing')).items.length === 2);
    for (const req of [`GET /${perUser('ann')}`, `GET /${perUser('ann')}/packing`, `GET /${perUser('ann')}/_changes`]) {
      assert.equal((await tablet.call(req)).status, 403, req);
      assert.equal((await api.call(req, { as: null })).status, 401, req);
    }
    await assert.rejects(tablet.remote(perUser('ann')).get('packing'), { status: 403 });
  });

  it('ann shares a list with ben by its _security object', async () => {
    // The app's backend, an admin, creates the database and makes ann its admin.
    await api.ok(`PUT /${shared}`);
    const security = (members) => ({ admins: { names: ['ann'], roles: [] }, members: { names: members, roles: [] } });
    await api.ok(`PUT /${shared}/_security`, { body: security(['ann']) });
    laptop.live(listOnLaptop, shared);
    await listOnLaptop.put({ _id: 'tent', by: 'ann' });
    await until('the server to have it', async () => (await laptop.call(`GET /${shared}/tent`)).status === 200);

    assert.equal((await tablet.call(`GET /${shared}/tent`)).status, 403, 'not yet');
    assert.equal((await tablet.call(`PUT /${shared}/_security`, { body: security(['ben']) })).status, 403, 'not by himself');
    assert.equal((await phone.call(`PUT /${shared}/_security`, { body: security(['ann', 'ben']) })).status, 200);

    tablet.live(listOnTablet, shared);
    await until('ben to have the tent', () => listOnTablet.get('tent').catch(() => null));
    await listOnTablet.put({ _id: 'stove', by: 'ben' });
    await until('ann to have the stove', () => listOnLaptop.get('stove').catch(() => null));
    assert.equal((await tablet.call(`DELETE /${shared}`)).status, 401, 'a member deletes no database');
    assert.equal((await tablet.call(`PUT /${shared}/_design/x`, { body: {} })).status, 403, 'nor writes its functions');
  });

  it('the device list shows which databases each device has synced, and how far', async () => {
    const listed = await until('checkpoints of both', async () => {
      const { devices: rows } = (await laptop.call('GET /_session/devices')).json;
      return rows.every(({ databases }) => Object.keys(databases ?? {}).length > 0) && rows;
    });
    for (const row of listed) {
      assert.ok(perUser('ann') in row.databases, JSON.stringify(row));
      assert.ok(row.first_seen && row.last_seen && row.address, JSON.stringify(row));
    }
    assert.ok(shared in listed.find(({ name }) => name === "Ann's laptop").databases);
  });

  it('ann revokes a lost phone: its session and feeds end immediately, the laptop continues', async () => {
    // A feed that is already open ends too: the phone receives nothing that is written after the revocation.
    const feed = await phone.api.lines(`GET /${perUser('ann')}/_changes?feed=continuous&since=now&include_docs=true&heartbeat=1000`, { as: null, send: { Cookie: phone.cookie } });
    const { devices: rows } = (await laptop.call('GET /_session/devices')).json;
    const { id } = rows.find(({ name }) => name === "Ann's phone");
    assert.equal((await tablet.call(`DELETE /_session/devices/${id}`)).status, 404, "not by ben: it is none of his");
    const revoked = await laptop.call(`DELETE /_session/devices/${id}`);
    assert.deepEqual(revoked.json, { ok: true, revoked: 1 });

    assert.equal((await phone.call(`GET /${perUser('ann')}/packing`)).status, 401);
    assert.equal((await phone.call('GET /_session')).json.userCtx?.name ?? null, null);
    await assert.rejects(phone.remote(perUser('ann')).get('packing'), { status: 401 });
    await onLaptop.put({ _id: 'secret', text: 'not for who has the phone' });
    await until('the server to have it', async () => (await laptop.call(`GET /${perUser('ann')}/secret`)).status === 200);
    await until("the phone's sync to fail", () => phone.syncs[0].failed);
    await assert.rejects(onPhone.get('secret'), { status: 404 });
    for (let line = await feed.row(); line !== null; line = await feed.row()) assert.ok(!line.includes('not for who'), line);

    assert.deepEqual((await laptop.call('GET /_session/devices')).json.devices.map(({ name }) => name), ["Ann's laptop"]);
    await listOnTablet.put({ _id: 'lamp', by: 'ben' });
    await until('the laptop to go on', () => listOnLaptop.get('lamp').catch(() => null));
    assert.equal(laptop.syncs.find(({ failed }) => failed), undefined);
  });

  it('a user removed from a shared list receives no more changes', async () => {
    const security = { admins: { names: ['ann'], roles: [] }, members: { names: ['ann'], roles: [] } };
    assert.equal((await laptop.call(`PUT /${shared}/_security`, { body: security })).status, 200);
    assert.equal((await tablet.call(`GET /${shared}/tent`)).status, 403);
    await listOnLaptop.put({ _id: 'surprise', for: 'ben' });
    await until('the server to have it', async () => (await laptop.call(`GET /${shared}/surprise`)).status === 200);
    await until("ben's sync to fail", () => tablet.syncs[0].failed);
    await assert.rejects(listOnTablet.get('surprise'), { status: 404 });
    // He keeps what he already replicated: the server cannot delete copies on a device.
    assert.equal((await listOnTablet.get('tent')).by, 'ann');
  });

  it('ann signs out everywhere, and signs in again with her password', async () => {
    const found = new Device(api, "Ann's phone, found again");
    devices.push(found);
    await found.signIn('ann', 'anns long password');
    const all = await laptop.call('DELETE /_session/devices');
    assert.equal(all.status, 200, all.text);
    assert.equal(all.json.ok, true);
    for (const device of [laptop, phone, found]) {
      assert.equal((await device.call(`GET /${perUser('ann')}`)).status, 401, device.name);
      await assert.rejects(device.remote(perUser('ann')).get('packing'), { status: 401 }, device.name);
    }
    await onPhone.put({ _id: 'offline', text: 'written without a session' });
    await phone.signIn('ann', 'anns long password');
    await onPhone.sync(phone.remote(perUser('ann')));
    assert.equal((await onPhone.get('secret')).text, 'not for who has the phone');
    assert.equal((await phone.call(`GET /${perUser('ann')}/offline`)).status, 200, 'nothing was lost');
    assert.equal((await tablet.call('GET /_session')).json.userCtx.name, 'ben', 'ben stays');
  });
});
