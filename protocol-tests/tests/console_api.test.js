// The console's files, and the endpoints that were made for it (docs/console-api.md).

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, before, after, assert, Api, like } from '../harness/rows.js';
import { ADMIN, binary, external, until } from '../harness/server.js';

describe('the files of the console', { skip: !!external }, () => {
  const api = new Api();
  before(() => api.start());
  after(() => api.stop());

  it('are served with a strict policy, and revalidated by their hash', async () => {
    for (const [path, type] of [
      ['/_utils/', 'text/html; charset=utf-8'],
      ['/_utils/index.html', 'text/html; charset=utf-8'],
      ['/_utils/session.html?return=%2Fdb&reason=x', 'text/html; charset=utf-8'],
    ]) {
      const answer = await api.call(`GET ${path}`, { as: null });
      assert.equal(answer.status, 200, path);
      assert.equal(answer.headers['content-type'], type);
      assert.equal(answer.headers['cache-control'], 'no-cache');
      assert.equal(answer.headers['x-content-type-options'], 'nosniff');
      assert.equal(answer.headers['referrer-policy'], 'no-referrer');
      const policy = answer.headers['content-security-policy'];
      for (const rule of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "form-action 'none'"]) {
        assert.ok(policy.split(/;\s*/).includes(rule), `${rule} in ${policy}`);
      }
      const again = await api.call(`GET ${path}`, { as: null, send: { 'If-None-Match': answer.headers.etag } });
      assert.deepEqual([again.status, again.text, again.headers.etag], [304, '', answer.headers.etag]);
    }
  });

  it('name only files that are there', async () => {
    const seen = new Set();
    const look = async (path) => {
      if (seen.has(path)) return;
      seen.add(path);
      const { status, text, headers } = await api.call(`GET ${path}`, { as: null });
      assert.equal(status, 200, path);
      if (!/html|javascript/.test(headers['content-type'])) return;
      const names = /html/.test(headers['content-type'])
        ? [...text.matchAll(/<(?:script|link)[^>]*?(?:src|href)="([^"#]+)"/g)]
        : [...text.matchAll(/(?:^|[\s;])(?:import|from)\s*\(?['"](\.[^'"]+)['"]/g)];
      for (const [, name] of names) await look(new URL(name, `http://x${path}`).pathname);
    };
    await look('/_utils/');
    assert.ok(seen.size > 2);
  });

  it('are compressed', async () => {
    const answer = await api.call('GET /_utils/', { as: null, send: { 'Accept-Encoding': 'gzip' } });
    assert.equal(answer.headers['content-encoding'], 'gzip');
  });

  it('are relative to _utils on the page at the root', async () => {
    const page = await api.call('GET /', { as: null, send: { Accept: 'text/html' } });
    assert.match(page.text, /<head>\s*<base href="_utils\/">/);
    assert.match(page.headers.vary, /accept/i);
  });
});

describe('the files of the console in development', { skip: !!external }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'settee-console-'));
  const api = new Api({ env: { SETTEE_CONSOLE_DIR: folder } });
  before(() => api.start());
  after(async () => {
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('are read from the folder at each request', async () => {
    assert.equal((await api.call('GET /_utils/')).status, 404);
    for (const text of ['<head>one</head>', '<head>two</head>']) {
      writeFileSync(join(folder, 'index.html'), text);
      assert.equal((await api.call('GET /_utils/')).text, text);
    }
    assert.equal((await api.call('GET /_utils/..%2f..%2fetc%2fpasswd')).status, 404);
  });
});

describe('what the server tells the console', { skip: !!external }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'settee-backups-'));
  const api = new Api({ env: { SETTEE_BACKUP_FOLDER: folder, SETTEE_UUIDS__MAX_COUNT: '77', SETTEE_LOG: 'info' }, args: ['--set', 'cors/max_age=5'] });
  before(() => api.start());
  after(async () => {
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const node = '/_node/_local';

  it('lists every setting with its documentation and its source, and no secret', async () => {
    const settings = async () => (await api.ok(`GET ${node}/_settings`)).settings;
    const of = async (section, key) => (await settings()).find((row) => row.section === section && row.key === key);
    like(await of('uuids', 'max_count'), { kind: 'number', min: 1, max: 1_000_000, default: '1000', value: '77', source: 'environment', changeable: true, when: 'now', secret: false, doc: /Ids/ });
    like(await of('cors', 'max_age'), { value: '5', source: 'argument', unit: 'seconds' });
    like(await of('uuids', 'algorithm'), { kind: 'choice', value: 'sequential', source: 'default', choices: (words) => words.includes('random') });
    like(await of('settee', 'backup_folder'), { value: folder, changeable: false, when: 'start' });
    like(await of('chttpd', 'port'), { when: 'restart', changeable: true });
    like(await of('jwt_auth', 'jwks_url'), { value: null, default: null, source: 'default' });
    await api.ok(`PUT ${node}/_config/uuids/max_count`, { body: '"99"' });
    like(await of('uuids', 'max_count'), { value: '99', source: 'http' });
    await api.ok(`DELETE ${node}/_config/uuids/max_count`);
    like(await of('uuids', 'max_count'), { value: '1000', source: 'default' });
    await api.ok(`PUT ${node}/_config/jwt_keys/hmac:_default`, { body: '"aHVzaC1odXNo"' });
    await api.ok(`PUT ${node}/_config/mine/own`, { body: '"x"' });
    like(await of('mine', 'own'), { value: 'x', source: 'http', default: null });
    like(await of('jwt_keys', 'hmac:_default'), { value: '****', secret: true });
    const { text } = await api.call(`GET ${node}/_settings`);
    assert.ok(!text.includes('aHVzaC1odXNo') && !text.includes('-pbkdf2'));
    assert.equal((await settings()).filter(({ section }) => section === 'admins').length, 0);
    await api.ok(`DELETE ${node}/_config/jwt_keys/hmac:_default`);
  });

  it('returns the newest lines of the log, and goes on after the last one', async () => {
    const logs = (query = '') => api.ok(`GET ${node}/_logs${query}`);
    const begin = (await logs()).next;
    await api.ok('GET /_all_dbs');
    await api.call('GET /nothing-there');
    const found = async () => (await logs(`?after=${begin}&text=nothing-THERE`)).lines;
    await until('the line of the request', async () => (await found()).length === 1, 10);
    const [line] = await found();
    like(line, { level: 'info', target: 'settee::request', text: /nothing-there.*404/, at: (at) => Math.abs(Date.now() - at) < 60_000 });
    const all = await logs(`?after=${begin}`);
    assert.ok(all.lines.length >= 2 && all.lines.every(({ id }) => id > begin), 'oldest first, all of them new');
    const one = await logs(`?after=${begin}&limit=1`);
    assert.deepEqual([one.lines.length, one.next], [1, one.lines[0].id]);
    assert.deepEqual((await logs(`?after=${all.next}&level=error`)).lines, []);
    assert.ok(!JSON.stringify(await logs('?limit=2000')).includes('/_logs'), 'requests for the log are left out');
    for (const wrong of ['level=loud', 'after=x', 'limit=-1']) assert.equal((await api.call(`GET ${node}/_logs?${wrong}`)).status, 400, wrong);
  });

  it('returns the newest audit events, filtered and page by page', async () => {
    const audit = (query = '') => api.ok(`GET ${node}/_audit${query}`);
    const from = Date.now();
    for (const name of ['one', 'two', 'three']) await api.ok(`PUT ${node}/_config/mine/${name}`, { body: '"secret words"' });
    await api.call('GET /_all_dbs', { as: 'eve:guessed' });
    const changes = () => audit(`?event=config_changed&from=${from - 1000}`);
    const { entries } = await changes();
    assert.deepEqual(entries.slice(0, 3).map(({ subject }) => subject), ['mine/three', 'mine/two', 'mine/one'], 'newest first');
    like(entries[0], { event: 'config_changed', user: ADMIN, peer: '127.0.0.1', id: String, number: Number, at: (at) => at >= from - 1000, target: 'audit' });
    const first = await audit('?event=config_changed&limit=2');
    const second = await audit(`?event=config_changed&limit=2&after=${first.next}`);
    assert.deepEqual([...first.entries, ...second.entries].slice(0, 3).map(({ subject }) => subject), ['mine/three', 'mine/two', 'mine/one']);
    assert.deepEqual((await audit('?user=ev')).entries.map(({ event, user }) => [event, user]), [['sign_in_failed', 'eve']]);
    assert.deepEqual((await audit('?to=1000')).entries, []);
    assert.ok(!JSON.stringify(await audit('?limit=1000')).match(/secret words|guessed"/));
    for (const wrong of ['event=party', 'after=x', 'from=-1']) assert.equal((await api.call(`GET ${node}/_audit?${wrong}`)).status, 400, wrong);
  });

  it('takes samples of what it does', async () => {
    await api.ok('GET /_all_dbs');
    await until('the first sample', async () => (await api.ok(`GET ${node}/_history`)).samples.length > 0, 30);
    like(await api.ok(`GET ${node}/_history?period=hour`), { period: 'hour', step: 10_000, samples: ([sample]) => {
      like(sample, { at: Number, requests: (count) => count > 0, errors_4xx: Number, errors_5xx: 0, latency_mean_ms: Number, latency_p95_ms: Number, memory: (bytes) => bytes > 1e6, connections: Number, feeds: 0 });
      return true;
    } });
    like(await api.ok(`GET ${node}/_history?period=day`), { step: 300_000, samples: [] });
    assert.equal((await api.call(`GET ${node}/_history?period=year`)).status, 400);
  });

  it('makes backups in the folder that is set, one at a time, which can be restored', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: Array.from({ length: 2000 }, (_, n) => ({ _id: `d${n}`, n })) } });
    assert.deepEqual((await api.ok(`GET ${node}/_backups`)), { folder, running: null, backups: [], last_error: null });
    assert.equal((await api.call(`POST ${node}/_backups`)).status, 415, 'the content type, which a form of another page cannot send');
    const answers = await Promise.all([1, 2, 3].map(() => api.call(`POST ${node}/_backups`, { body: {} })));
    const begun = answers.filter(({ status }) => status === 202);
    assert.ok(begun.length >= 1 && answers.every(({ status }) => status === 202 || status === 409), answers.map(({ status }) => status).join());
    const state = () => api.ok(`GET ${node}/_backups`);
    await until('the backup', async () => (await state()).running === null, 60);
    const { backups, last_error: error } = await state();
    assert.equal(error, null);
    assert.deepEqual(backups.map(({ name }) => name), begun.map(({ json }) => json.id).sort().reverse());
    like(backups[0], { name: /^settee-\d{8}-\d{6}\.backup$/, bytes: (bytes) => bytes > 1000, at: (at) => Math.abs(Date.now() - at) < 120_000 });
    assert.deepEqual(readdirSync(folder).sort(), backups.map(({ name }) => name).sort(), 'nothing half done is left');
    assert.equal(statSync(join(folder, backups[0].name)).mode & 0o077, 0, 'for the owner only');
    const restored = join(folder, 'restored');
    const run = spawnSync(binary(), ['restore', join(folder, backups[0].name), '--data', restored], { encoding: 'utf8' });
    assert.equal(run.status, 0, run.stderr);
    assert.match(run.stdout, /200\d documents|documents/);
  });

  it('checks what is stored while it is written to', async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: Array.from({ length: 2000 }, (_, n) => ({ n })) } });
    const state = () => api.ok(`GET ${node}/_check`);
    assert.deepEqual(await state(), { running: null, last: null });
    assert.equal((await api.call(`POST ${node}/_check`, { body: {} })).status, 202);
    for (let n = 0; (await state()).last === null; n += 1) await api.ok(`POST /${db}`, { body: { n } });
    like(await state(), { running: null, last: { ok: true, problems: [], problem_count: 0, documents: (count) => count >= 2000 } });
  });

  it('needs a server admin, and knows its methods', async () => {
    await api.ok('PUT /_users/org.couchdb.user:ann', { body: { name: 'ann', password: 'pw', roles: [], type: 'user' } });
    for (const path of ['_settings', '_logs', '_audit', '_history', '_backups', '_check']) {
      for (const as of [null, 'ann:pw']) {
        assert.equal((await api.call(`GET ${node}/${path}`, { as })).status, 401, path);
        assert.equal((await api.call(`POST ${node}/${path}`, { as, body: {} })).status, 401, path);
      }
      assert.equal((await api.call(`PUT ${node}/${path}`, { body: {} })).status, 405, path);
    }
  });
});

describe('backups without a folder, and audit events after a restart', { skip: !!external }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'settee-audit-'));
  const api = new Api({ env: { SETTEE_AUDIT_FILE: join(folder, 'audit.log') } });
  before(() => api.start());
  after(async () => {
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('are refused with a reason', async () => {
    like(await api.ok('GET /_node/_local/_backups'), { folder: null, backups: [] });
    const { status, json } = await api.call('POST /_node/_local/_backups', { body: {} });
    assert.deepEqual([status, json.error], [403, 'forbidden']);
    assert.match(json.reason, /backup_folder/);
  });

  it('begin with the end of the audit file', async () => {
    await api.ok('PUT /_node/_local/_config/mine/before', { body: '"x"' });
    await api.server.restart('SIGTERM');
    const { entries } = await api.ok('GET /_node/_local/_audit?event=config_changed');
    like(entries[0], { subject: 'mine/before', at: (at) => Math.abs(Date.now() - at) < 60_000 });
  });
});

describe('the indexes of a database, and functions that are tried', () => {
  const api = new Api({ env: { SETTEE_COUCHDB__OS_PROCESS_TIMEOUT: '500' } });
  before(() => api.start());
  after(() => api.stop());
  const skip = !!external;

  it('are listed with their state and their uses', { skip }, async () => {
    const db = await api.db();
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs: [{ _id: 'a', n: 1 }, { _id: 'b', n: 2 }] } });
    await api.ok(`PUT /${db}/_design/app`, { body: { views: { by_n: { map: 'function (doc) { emit(doc.n); }' }, all: { map: 'function (doc) { emit(doc._id); }' } } } });
    await api.ok(`PUT /${db}/_design/idle`, { body: { views: { x: { map: 'function (doc) { emit(1); }' } } } });
    await api.ok(`PUT /${db}/_design/none`, { body: { filters: { f: 'function () { return true; }' } } });
    await api.ok(`POST /${db}/_index`, { body: { index: { fields: ['n'] }, ddoc: 'mango', name: 'by-n' } });
    const rows = async () => new Map((await api.ok(`GET /${db}/_views`)).rows.map((row) => [row.design, row]));
    let now = await rows();
    assert.deepEqual([...now.keys()], ['_design/app', '_design/idle', '_design/mango']);
    like(now.get('_design/app'), { kind: 'view', name: 'app', views: ['all', 'by_n'], uses: 0, last_used: null, pending: 6, update_seq: 0, building: false, orphan: false, signature: /^[0-9a-f]{32}$/ });
    like(now.get('_design/mango'), { kind: 'mango', name: 'by-n', views: ['by-n'], uses: 0 });
    await api.ok(`GET /${db}/_design/app/_view/by_n`);
    await api.ok(`GET /${db}/_design/app/_view/all`);
    await api.ok(`POST /${db}/_find`, { body: { selector: { n: { $gt: 1 } } } });
    now = await rows();
    like(now.get('_design/app'), { uses: 2, last_used: (at) => Math.abs(Date.now() - at) < 60_000, pending: 0, sizes: { file: (bytes) => bytes > 0 } });
    like(now.get('_design/mango'), { uses: 1, pending: 0 });
    like(now.get('_design/idle'), { uses: 0 });
    const { _rev } = await api.ok(`GET /${db}/_design/app`);
    await api.ok(`DELETE /${db}/_design/app?rev=${_rev}`);
    like((await rows()).get(null), { orphan: true, kind: null, sizes: { file: Number } });
    await api.ok(`POST /${db}/_view_cleanup`, { body: {} });
    assert.deepEqual([...(await rows()).keys()], ['_design/idle', '_design/mango']);
  });

  it('and functions are for admins of the database', { skip }, async () => {
    const db = await api.db();
    await api.ok('PUT /_users/org.couchdb.user:ben', { body: { name: 'ben', password: 'pw', roles: [], type: 'user' } });
    await api.ok(`PUT /${db}/_security`, { body: { admins: { names: ['ben'], roles: [] }, members: { names: [], roles: [] } } });
    const asked = { kind: 'map', source: 'function (doc) { emit(1); }', doc: {} };
    assert.equal((await api.call(`GET /${db}/_views`, { as: 'ben:pw' })).status, 200);
    assert.equal((await api.call(`POST /${db}/_try`, { as: 'ben:pw', body: asked })).status, 200);
    await api.ok(`PUT /${db}/_security`, { body: { admins: { names: [], roles: [] }, members: { names: ['ben'], roles: [] } } });
    assert.equal((await api.call(`GET /${db}/_views`, { as: 'ben:pw' })).status, 403);
    assert.equal((await api.call(`POST /${db}/_try`, { as: 'ben:pw', body: asked })).status, 403);
  });

  const map = (source, more = {}) => ({ kind: 'map', source, doc: { _id: 'a', n: 1 }, ...more });
  for (const [name, body, status, expected] of [
    ['a map function', map('function (doc) { log("x"); emit([doc.n, null], doc); emit(); }'), 200, { ok: true, rows: [{ key: [1, null], value: { _id: 'a', n: 1 } }, { key: null, value: null }], total: 2, logs: ['x'] }],
    ['a map function that does not compile', map('function (doc) {\n  emit(doc.n);\n  if (\n}'), 200, { ok: false, error: 'compilation_error', message: /SyntaxError/, line: (line) => line >= 3 && line <= 4 }],
    ['an error on the first line', map('function (doc) { emit(; }'), 200, { ok: false, error: 'compilation_error', line: 1, column: (column) => column === 23 }],
    ['a map function that throws', map('function (doc) {\n  var x;\n  x.y.z;\n}'), 200, { ok: false, error: 'TypeError', message: /undefined/, line: 3 }],
    ['what is no function', map('1 + 1'), 200, { ok: false, error: 'compilation_error', message: /does not eval to a function/ }],
    ['an empty source', map(''), 200, { ok: false }],
    ['a function that only compiles', { kind: 'update', source: 'function () { throw 1; }', compile: true }, 200, { ok: true, logs: [] }],
    ['a module of the design document', map('function (doc) { emit(require("views/lib/a").b); }', { design: { views: { lib: { a: 'exports.b = 7;' } } } }), 200, { ok: true, rows: [{ key: 7, value: null }] }],
    ['a filter', { kind: 'filter', source: 'function (doc, req) { return doc.n == req.query.n; }', doc: { n: 1 }, req: { query: { n: '1' } } }, 200, { ok: true, passes: true }],
    ['a filter without a request', { kind: 'filter', source: 'function (doc, req) { return req.query.n; }', doc: {} }, 200, { ok: true, passes: false }],
    ['a validation that allows', { kind: 'validate', source: 'function (doc, old, user, security) { if (!user.name) throw {forbidden: "who?"}; }', doc: {} }, 200, { ok: true, allowed: true }],
    ['a validation that refuses', { kind: 'validate', source: 'function (doc, old) { throw {forbidden: "no " + old.n}; }', doc: {}, old_doc: { n: 4 } }, 200, { ok: true, allowed: false, error: 'forbidden', reason: 'no 4' }],
    ['a validation of another user', { kind: 'validate', source: 'function (doc, old, user) { if (old === null && user.name === "x") throw {unauthorized: "x"}; }', doc: {}, user_ctx: { name: 'x', roles: [] } }, 200, { ok: true, allowed: false, error: 'unauthorized' }],
    ['a validation with a fault', { kind: 'validate', source: 'function (doc) {\n\n  doc.a.b;\n}', doc: {} }, 200, { ok: false, error: 'TypeError', line: 3 }],
    ['a reduce function', { kind: 'reduce', source: 'function (keys, values) { return keys.length + sum(values); }', keys: [['a', 'x'], ['b', 'y']], values: [1, 2] }, 200, { ok: true, value: 5 }],
    ['a reduce function that is built in', { kind: 'reduce', source: '_stats', keys: [['a', 'x'], ['b', 'y']], values: [1, 2] }, 200, { ok: true, value: { sum: 3, count: 2 } }],
    ['a built-in one that fails', { kind: 'reduce', source: '_sum', keys: [['a', 'x']], values: ['text'] }, 200, { ok: true, value: { error: 'builtin_reduce_error' } }],
    ['one that is not built in', { kind: 'reduce', source: '_sums_up', keys: [], values: [] }, 200, { ok: true, value: 0 }],
    ['an endless loop', map('function () { for (;;); }'), 200, { ok: false, error: 'os_process_error' }],
    ['too much memory', map('function () { var a = []; for (;;) a.push(new Array(1e6).join("x")); }'), 200, { ok: false, error: (error) => ['InternalError', 'os_process_error'].includes(error) }],
    ['a function that breaks the environment', map('function () { JSON.stringify = Array.prototype.push = null; Object.prototype.ok = 1; emit(1); }'), 200, { ok: true, rows: [{ key: 1, value: null }] }],
    ['a thrown text', map('function () { throw "words"; }'), 200, { ok: false, message: 'words' }],
    ['a thrown null', map('function () { throw null; }'), 200, { ok: false }],
    ['another kind', { kind: 'show', source: 'function () {}', doc: {} }, 400, { error: 'bad_request', reason: /kind/ }],
    ['no document', { kind: 'map', source: 'function () {}' }, 400, { error: 'bad_request', reason: /doc/ }],
    ['a document that is a list', map('function () {}', { doc: [] }), 400, { error: 'bad_request' }],
    ['a source that is a number', map(1), 400, { error: 'bad_request' }],
    ['values that are no list', { kind: 'reduce', source: '_sum', values: {} }, 400, { error: 'bad_request' }],
    ['a list', [], 400, { error: 'bad_request' }],
  ]) {
    it(`tries ${name}`, { skip }, async () => {
      api.tried ??= await api.db();
      const before = (await api.ok(`GET /${api.tried}`)).update_seq;
      const answer = await api.call(`POST /${api.tried}/_try`, { body });
      assert.equal(answer.status, status, answer.text);
      like(answer.json, expected);
      assert.equal((await api.ok(`GET /${api.tried}`)).update_seq, before, 'nothing is written');
    });
  }
});
