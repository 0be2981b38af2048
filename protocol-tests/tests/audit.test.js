// The audit log: which events it records, for which user and address, and which secrets it must never
// contain.

import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, before, after, assert, Api, like } from '../harness/rows.js';
import { ADMIN, PASSWORD, external, until } from '../harness/server.js';

const SECRETS = ['20406080', 'first secret', 'second secret', 'guessed secret', 'setting secret', PASSWORD];
const peer = '203.0.113.9';

describe('the audit log', { skip: !!external }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'settee-audit-'));
  const file = join(folder, 'audit.log');
  const api = new Api({
    env: {
      SETTEE_AUDIT_FILE: file,
      SETTEE_LOG: 'error',
      SETTEE_TRUSTED_PROXIES: '127.0.0.1',
      SETTEE_AUDIT__MASS_DELETION: '20',
      SETTEE_AUDIT__ID_SCANNING: '15',
      SETTEE_AUDIT__GUESSING: '5',
      SETTEE_CHTTPD_AUTH__ITERATIONS: '10',
    },
  });
  const events = () => readFileSync(file, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));
  const call = (req, options = {}) => api.call(req, { ...options, send: { 'X-Forwarded-For': peer, ...options.send } });

  /** Runs `action`, and asserts that it causes exactly these kinds of events, in order. Resolves to them. */
  const told = async (kinds, action) => {
    const before = events().length;
    await action();
    await until(`${kinds.join(', ')} to be told`, () => events().length >= before + kinds.length, 10);
    const made = events().slice(before);
    assert.deepEqual(made.map(({ event }) => event), kinds);
    return made;
  };
  const account = (name, password) => ({ name, password, roles: [], type: 'user' });

  before(async () => {
    await api.start();
    await api.call('GET /');
  });
  after(async () => {
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('records changes of accounts and admins', async () => {
    const id = 'org.couchdb.user:ann';
    let rev;
    const [made] = await told(['account_changed'], async () => {
      ({ rev } = (await call(`PUT /_users/${id}`, { body: account('ann', 'first secret') })).json);
    });
    like(made, { event: 'account_changed', user: ADMIN, peer, subject: id, target: 'audit', level: 'INFO', timestamp: /^\d{4}-/, id: /^\w+$/ });
    const bulk = { docs: [{ _id: id, _rev: rev, ...account('ann', 'second secret') }, { _id: 'org.couchdb.user:ben', ...account('ben', 'first secret') }] };
    const changed = await told(['account_changed', 'account_changed'], () => call('POST /_users/_bulk_docs', { body: bulk }));
    assert.deepEqual(changed.map(({ subject }) => subject), [id, 'org.couchdb.user:ben']);
    const ben = (await call('GET /_users/org.couchdb.user:ben')).json;
    const [gone] = await told(['account_changed'], () => call(`DELETE /_users/org.couchdb.user:ben?rev=${ben._rev}`));
    assert.equal(gone.detail, 'deleted');
    const config = '/_node/_local/_config/admins/eve';
    const [admin] = await told(['admin_changed'], () => call(`PUT ${config}`, { body: '"first secret"' }));
    like(admin, { user: ADMIN, subject: 'eve', detail: undefined });
    like((await told(['admin_changed'], () => call(`DELETE ${config}`)))[0], { subject: 'eve', detail: 'deleted' });
  });

  it('records changes of settings, without the values', async () => {
    const [set] = await told(['config_changed'], () => call('PUT /_node/_local/_config/jwt_keys/hmac:a', { body: '"setting secret"' }));
    like(set, { user: ADMIN, peer, subject: 'jwt_keys/hmac:a' });
    await told(['config_changed'], () => call('DELETE /_node/_local/_config/jwt_keys/hmac:a'));
    await told(['denied'], () => call('PUT /_node/_local/_config/settee/audit_file', { body: '"/tmp/x"' }));
    await told([], () => call('PUT /_node/_local/_config/uuids/max_count', { body: '"many"' }));
  });

  it('records changes of databases and of their _security', async () => {
    const [made] = await told(['database_created'], () => call('PUT /audited'));
    like(made, { user: ADMIN, database: 'audited' });
    const security = { admins: { names: [], roles: [] }, members: { names: ['ann'], roles: [] } };
    like((await told(['security_changed'], () => call('PUT /audited/_security', { body: security })))[0], { database: 'audited' });
    await told([], () => call('PUT /audited/_security', { body: { members: 1 } }));
    await told([], () => call('PUT /audited/doc', { body: {} }));
    await told(['database_deleted'], () => call('DELETE /audited'));
  });

  it('records sign-ins, sign-outs and revoked devices', async () => {
    const json = { name: 'ann', password: 'second secret' };
    let cookie;
    const [signed] = await told(['sign_in'], async () => {
      const answer = await call('POST /_session', { as: null, body: json });
      cookie = answer.headers['set-cookie'][0].split(';')[0];
    });
    like(signed, { user: 'ann', peer, detail: 'session' });
    await told([], () => call('GET /_session', { as: null, send: { Cookie: cookie } }));
    like((await told(['sign_out'], () => call('DELETE /_session', { as: null, send: { Cookie: cookie } })))[0], { user: 'ann' });
    like((await told(['sign_in'], () => call('POST /_session/token', { as: null, body: json })))[0], { user: 'ann', detail: 'tokens' });
    const [revoked] = await told(['device_revoked'], () => call('DELETE /_session/devices', { as: 'ann:second secret' }));
    like(revoked, { user: 'ann', subject: 'all', detail: 'of ann' });
    like((await told(['device_revoked'], () => call('DELETE /_session/devices?user=ann')))[0], { user: ADMIN, detail: 'of ann' });
  });

  it('records denied requests with the user and the reason', async () => {
    const [denied] = await told(['denied'], () => call('PUT /nobodys', { as: null }));
    like(denied, { user: undefined, peer, subject: 'PUT /nobodys', detail: 'You are not a server admin.' });
    const [ann] = await told(['denied'], () => call('GET /_all_dbs', { as: 'ann:second secret' }));
    like(ann, { user: 'ann', peer, subject: 'GET /_all_dbs' });
  });

  it('does not record a password that is not a string', async () => {
    const body = { ...account('eve', 0), password: 20406080 };
    const [denied] = await told(['denied'], async () => {
      const answer = await call('PUT /_users/org.couchdb.user:eve', { body });
      like(answer, { status: 403, json: { reason: "Password value of '20406080' is invalid." } });
    });
    like(denied, { user: ADMIN, detail: 'a password that is no text' });
  });

  it('records wrong passwords, guessing and lockouts', async () => {
    const guess = (name) => call('POST /_session', { as: null, body: { name, password: 'guessed secret' } });
    const [failed] = await told(['sign_in_failed'], () => guess('nobody'));
    like(failed, { user: 'nobody', peer, detail: 'Name or password is incorrect.', level: 'WARN' });
    await told(['sign_in_failed'], () => call('GET /', { as: 'ann:guessed secret' }));
    const at = async () => {
      for (let n = 0; n < 4; n += 1) await guess('ann');
    };
    const many = await told(['sign_in_failed', 'sign_in_failed', 'sign_in_failed', 'suspicious', 'sign_in_failed'], at);
    like(many[3], { detail: 'guessing', peer, user: undefined, level: 'WARN' });
    const [locked] = await told(['sign_in_refused'], () => guess('ann'));
    like(locked, { user: 'ann', detail: 'lockout' });
    const [forged] = await told(['sign_in_failed'], () => call('GET /', { as: null, send: { Cookie: 'AuthSession=YW5uOjE' } }));
    like(forged, { user: undefined, detail: /cookie/ });
  });

  it('records mass deletion and id scanning once', async () => {
    const db = await api.db();
    const docs = Array.from({ length: 30 }, (_, n) => ({ _id: `d${n}` }));
    const made = await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
    const deletions = made.map(({ id, rev }) => ({ _id: id, _rev: rev, _deleted: true }));
    const [deleting] = await told(['suspicious'], () => call(`POST /${db}/_bulk_docs`, { body: { docs: deletions } }));
    like(deleting, { detail: 'mass_deletion', user: ADMIN, peer });
    const scan = async () => {
      for (let n = 0; n < 30; n += 1) await call(`GET /${db}/guess-${n}`);
      for (let n = 0; n < 30; n += 1) await call(`GET /${db}/_local/guess-${n}`);
    };
    like((await told(['suspicious'], scan))[0], { detail: 'id_scanning', user: ADMIN });
    const stats = (await api.ok('GET /_node/_local/_stats/settee')).suspicious;
    like(stats, { mass_deletion: { value: 1 }, id_scanning: { value: 1 }, guessing: { value: 1 } });
    const { text } = await api.call('GET /_node/_local/_prometheus');
    for (const line of ['suspicious_guessing_total 1', 'lockouts_total 1', 'sign_in_failures_total 7', 'denials_total 4']) {
      assert.match(text, new RegExp(`^settee_${line}$`, 'm'));
    }
  });

  it('limits the number of events of one client', async () => {
    const before = events().length;
    await Promise.all(Array.from({ length: 300 }, () => call('PUT /nobodys', { as: null })));
    await until('some of it', () => events().length > before);
    assert.ok(events().length - before <= 110, `${events().length - before} events`);
  });

  it('contains no secrets, and only its owner may read the file', () => {
    const text = readFileSync(file, 'utf8');
    for (const secret of SECRETS) assert.ok(!text.includes(secret), secret);
    assert.ok(!/pbkdf2|AuthSession=|Bearer/.test(text));
    assert.equal(statSync(file).mode & 0o077, 0);
  });
});

describe('the audit file', { skip: !!external }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'settee-audit-'));
  const file = join(folder, 'audit.log');
  const api = new Api({ env: { SETTEE_AUDIT_FILE: file, SETTEE_AUDIT_FILE_SIZE: '2 kB', SETTEE_AUDIT_FILES: '2' } });
  before(() => api.start());
  after(async () => {
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('is rotated when it reaches its size, and the log contains the events too', async () => {
    for (let n = 0; n < 60; n += 1) await api.call(`PUT /refused-${n}`, { as: null });
    await until('the third file', () => existsSync(`${file}.2`));
    for (const name of [file, `${file}.1`, `${file}.2`]) assert.ok(statSync(name).size <= 2000, name);
    assert.ok(!existsSync(`${file}.3`));
    assert.match(readFileSync(`${file}.1`, 'utf8').split('\n')[0], /"event":"denied"/);
    await api.server.logged(/audit.*denied.*refused-0/);
  });
});
