// Obsidian LiveSync: `settee livesync`, and a replay of the requests of the plugin.
//
// The plugin's repository is vrtmrz/obsidian-livesync. `check` does what its "Check server requirements" does
// (`utilCheckCouchDB.ts`): it reads the settings with an admin's password, and judges their text. `open` decrypts a
// setup link.

import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createRequire } from 'node:module';
import { suite, describe, it, before, after, assert, Api } from '../harness/rows.js';
import { binary, external, noFolder, until } from '../harness/server.js';
import { inFolder, settee } from '../harness/command.js';
import { open } from '../harness/livesync.js';

const PouchDB = createRequire(import.meta.url)('pouchdb-9');

const ORIGINS = ['app://obsidian.md', 'capacitor://localhost', 'http://localhost'];

/** The lines of the plugin's check that are red, by the setting that its button "Fix" writes. */
async function check(api, as) {
  const get = (origin) => api.call('GET /_node/_local/_config', { as, send: origin ? { Origin: origin } : {} });
  const first = await get('app://obsidian.md');
  const red = {};
  if (first.status !== 200) return { forbidden: first.status };
  const config = first.json;
  const version = first.headers.server.match(/CouchDB(\/([0-9.]+))?/)[2];
  assert.ok(version.localeCompare('3.2.0', undefined, { numeric: true }) >= 0, version);
  if (config.chttpd.require_valid_user !== 'true') red['chttpd/require_valid_user'] = 'true';
  if (!config.httpd['WWW-Authenticate']) red['httpd/WWW-Authenticate'] = 'Basic realm="couchdb"';
  if (config.chttpd.enable_cors !== 'true') red['chttpd/enable_cors'] = 'true';
  if (Number(config.chttpd.max_http_request_size ?? 0) < 4294967296) red['chttpd/max_http_request_size'] = '4294967296';
  if (Number(config.couchdb.max_document_size ?? 0) < 50000000) red['couchdb/max_document_size'] = '50000000';
  if (config.cors?.credentials !== 'true') red['cors/credentials'] = 'true';
  const origins = (config.cors?.origins ?? '').split(',');
  if (config.cors?.origins !== '*' && !ORIGINS.every((origin) => origins.includes(origin))) {
    red['cors/origins'] = [...new Set([...origins.map((item) => item.trim()), ...ORIGINS])].join(',');
  }
  for (const origin of ORIGINS) {
    const { headers } = await get(origin);
    if (headers['access-control-allow-credentials'] !== 'true') red[`credentials of ${origin}`] = '';
    if (headers['access-control-allow-origin'] !== origin) red[`origin ${origin}`] = '';
  }
  return red;
}

/** The people in the output of `settee livesync`: link, its passphrase, password. */
function people(out) {
  const found = {};
  for (const part of out.split(/^== /m).slice(1)) {
    found[part.match(/^(.*) ==/)[1]] = {
      link: part.match(/^obsidian:\S+$/m)[0],
      passphrase: part.match(/^passphrase of the link {3}(\S+)$/m)?.[1],
      password: part.match(/^password of \S+ +(\S+)$/m)?.[1],
      vault: part.match(/^passphrase of the vault {2}(\S+)$/m)?.[1],
    };
  }
  return found;
}

suite("the plugin's check of a server", (api) => {
  it('complains of a new server only that it answers without an account', { skip: !!external }, async () => {
    assert.deepEqual(Object.keys(await check(api)), ['chttpd/require_valid_user', 'httpd/WWW-Authenticate']);
  });

  it('is content with what its own buttons write, and pages of localhost still work', { skip: !!external }, async () => {
    await api.ok('PUT /_node/_local/_config/chttpd/require_valid_user', { body: '"true"' });
    assert.deepEqual(await check(api), {}, 'a refusal then asks for a password by itself');
    await api.ok('PUT /_node/_local/_config/cors/origins', { body: '"https://app.example.com, https://b.example.com"' });
    const red = await check(api);
    assert.equal(red['cors/origins'], `https://app.example.com,https://b.example.com,${ORIGINS.join(',')}`);
    for (const key of ['cors/origins', 'cors/credentials']) {
      await api.ok(`PUT /_node/_local/_config/${key}`, { body: JSON.stringify(red[key]) });
    }
    assert.deepEqual(await check(api), {});
    const page = await api.call('OPTIONS /', { as: null, send: { Origin: 'http://localhost:5173', 'Access-Control-Request-Method': 'GET' } });
    assert.equal(page.status, 204);
    assert.equal(page.headers['access-control-allow-origin'], 'http://localhost:5173');
  });

  it('is refused to a member', async () => {
    assert.deepEqual(await check(api, 'nobody:x'), { forbidden: 401 });
  });
});

describe('POST /_livesync/link', { skip: !!external }, () => {
  const api = new Api();
  before(async () => {
    await api.start();
    for (const name of ['ann', 'bob']) await api.ok(`PUT /_users/org.couchdb.user:${name}`, { body: { name, type: 'user', roles: [], password: `pass of ${name}` } });
    await api.ok('PUT /notes');
    await api.ok('PUT /notes/_security', { body: { admins: { names: ['ann'] }, members: { names: ['ann'] } } });
  });
  after(() => api.stop());
  const asked = { url: 'https://sync.example.com/', db: 'notes', name: 'ann', password: 'pass of ann' };
  const make = (change, as) => api.call('POST /_livesync/link', { body: { ...asked, ...change }, as });

  it('makes a link that the plugin opens, with its picture, and keeps nothing', async () => {
    const before = await api.ok('GET /_users/org.couchdb.user:ann');
    for (const as of [undefined, 'ann:pass of ann']) {
      const { status, json, headers } = await make({}, as);
      assert.deepEqual([status, headers['cache-control']], [200, 'no-store']);
      assert.deepEqual(Object.keys(json).sort(), ['link', 'passphrase', 'qr_svg', 'vault_passphrase']);
      assert.match(json.qr_svg, /^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" viewBox="0 0 \d+ \d+" [^<>]*><rect [^<>]*\/><path d="[^"<>]+"\/><\/svg>\n$/);
      const settings = await open(json.link, json.passphrase);
      assert.deepEqual([settings.couchDB_URI, settings.couchDB_USER, settings.couchDB_PASSWORD, settings.couchDB_DBNAME], ['https://sync.example.com', 'ann', 'pass of ann', 'notes']);
      assert.deepEqual([settings.encrypt, settings.passphrase], [true, json.vault_passphrase]);
    }
    const given = (await make({ vault_passphrase: 'of an old vault' })).json;
    assert.deepEqual([given.vault_passphrase, (await open(given.link, given.passphrase)).passphrase], ['of an old vault', 'of an old vault']);
    const plain = (await make({ encrypt: false, vault_passphrase: 'unused' })).json;
    assert.deepEqual([plain.vault_passphrase, (await open(plain.link, plain.passphrase)).encrypt], [null, undefined]);
    const long = (await make({ vault_passphrase: 'x'.repeat(4000) })).json;
    assert.deepEqual([long.qr_svg, (await open(long.link, long.passphrase)).passphrase.length], [null, 4000]);
    assert.deepEqual(await api.ok('GET /_users/org.couchdb.user:ann'), before);
    const logged = JSON.stringify([await api.ok('GET /_node/_local/_logs?level=debug&limit=1000'), await api.ok('GET /_node/_local/_audit')]);
    for (const secret of ['pass of ann', given.passphrase, 'of an old vault']) assert.ok(!logged.includes(secret) && !api.server.log().includes(secret), secret);
    assert.ok(logged.includes('livesync link'), 'the audit log names what the password was checked for');
  });

  it('is refused to those who may not, and says why', async () => {
    for (const [change, as, status, reason] of [
      [{}, null, 401, /not authorized|not an authenticated user|sign/i],
      [{ password: 'wrong' }, undefined, 401, /^Name or password is incorrect/],
      [{ name: 'nobody' }, undefined, 401, /^Name or password is incorrect/],
      [{}, 'bob:pass of bob', 403, /^You are not a server admin/],
      [{ name: 'bob', password: 'pass of bob' }, 'bob:pass of bob', 403, /^You are not allowed to access this db/],
      [{ name: 'admin', password: 'pass word:1' }, undefined, 403, /^This is a server admin/],
      [{ db: 'none' }, undefined, 404, /^Database does not exist/],
      [{ url: 'sync.example.com' }, undefined, 400, /^url begins with/],
      [{ url: 'https://' }, undefined, 400, /^url begins with/],
      [{ more: 1 }, undefined, 400, /^the body is an object with/],
      [{ password: 7 }, undefined, 400, /^the body is an object with/],
      [{ vault_passphrase: 'x'.repeat(20_000) }, undefined, 413, /16384 bytes/],
    ]) {
      const answer = await make(change, as);
      assert.equal(answer.status, status, `${JSON.stringify(change).slice(0, 100)} as ${as}: ${answer.text.slice(0, 300)}`);
      assert.match(answer.json.reason, reason);
      assert.ok(!answer.text.includes('pass of'), answer.text);
    }
    assert.equal((await api.call('POST /_livesync/link', { body: JSON.stringify(asked), send: { 'Content-Type': 'text/plain' } })).status, 415);
    assert.equal((await api.call('GET /_livesync/link')).status, 405);
    assert.equal((await api.call('GET /_livesync/other')).status, 404);
  });

  it('checks a password no oftener than a sign-in', async () => {
    let refused;
    for (let at = 0; at < 30 && refused?.status !== 403; at += 1) refused = await make({ name: 'bob', password: `guess ${at}` });
    assert.match(refused.json.reason, /locked/i);
  });
});

describe('settee livesync', { skip: !!external }, () => {
  let api;
  const livesync = (...args) => settee(['livesync', '--data', join(api.server.folder, 'data'), ...args]);
  const good = async (...args) => {
    const { code, out, err } = await livesync(...args);
    assert.equal(code, 0, `${args.join(' ')}: ${out}${err}`);
    return out;
  };
  const refused = async (says, ...args) => {
    const { code, err } = await livesync(...args);
    assert.equal(code, 1, args.join(' '));
    assert.match(err, says);
  };
  const withServer = (options, work) => async () => {
    api = new Api(options);
    await api.start();
    try {
      await work();
    } finally {
      await api.stop();
    }
  };
  const remote = (settings) =>
    new PouchDB(`${settings.couchDB_URI}/${settings.couchDB_DBNAME}`, {
      skip_setup: true,
      auth: { username: settings.couchDB_USER, password: settings.couchDB_PASSWORD },
    });

  it('makes account, database, rights, settings and a link that the plugin opens', withServer({}, async () => {
    const out = await good('--user', 'ann');
    assert.deepEqual(await check(api), {}, 'the plugin has nothing to complain of');
    assert.equal((await api.call('GET /_up', { as: null })).status, 200, 'monitors need no account');
    const { ann } = people(out);
    const settings = await open(ann.link, ann.passphrase);
    assert.deepEqual(settings, {
      couchDB_URI: `http://localhost:${api.server.port}`,
      couchDB_USER: 'ann',
      couchDB_PASSWORD: ann.password,
      couchDB_DBNAME: 'notes-ann',
      encrypt: true,
      passphrase: ann.vault,
      usePathObfuscation: true,
      isConfigured: true,
      batchSave: true,
      periodicReplication: true,
      syncOnStart: true,
      syncOnFileOpen: true,
      syncAfterMerge: true,
      usePluginSyncV2: true,
      handleFilenameCaseSensitive: false,
      customChunkSize: 60,
      concurrencyOfReadChunksOnline: 30,
      minimumIntervalOfReadChunksOnline: 25,
    });
    const db = remote(settings);
    // What the plugin does first: it writes the version of its format, and its milestone.
    await db.put({ _id: 'obsydian_livesync_version', version: 12, type: 'versioninfo' });
    await db.put({ _id: '_local/obsydian_livesync_milestone', type: 'milestoneinfo', created: 1 });
    assert.equal((await db.info()).doc_count, 1);
    assert.equal((await api.call('GET /notes-ann', { as: null })).status, 401);
    await api.ok('PUT /_users/org.couchdb.user:bob', { body: { name: 'bob', type: 'user', roles: [], password: 'b' } });
    assert.equal((await api.call('GET /notes-ann', { as: 'bob:b' })).status, 403, 'nobody else may read it');
    assert.equal((await api.call('POST /notes-ann/_compact', { as: `ann:${ann.password}`, body: {} })).status, 202, 'the owner may compact it');
  }));

  it('prints each setting that it changes', withServer({}, async () => {
    const settings = async () => {
      const sections = Object.entries(await api.ok('GET /_node/_local/_config'));
      return sections.flatMap(([section, keys]) => Object.entries(keys).map(([key, value]) => `${section}/${key} = ${value}`));
    };
    const before = new Set(await settings());
    const out = await good('--user', 'ann');
    // The server derives WWW-Authenticate from the others.
    const changed = (await settings()).filter((setting) => !before.has(setting) && !setting.includes('WWW-Authenticate'));
    assert.deepEqual(out.match(/(?<=^ {2}set ).*$/gm).sort(), changed.sort());
    assert.deepEqual(changed, ['chttpd/require_valid_user = true', 'chttpd/require_valid_user_except_for_up = true', 'livesync/notes-ann = encrypted']);
    assert.ok(!/^ {2}set /m.test(await good('--user', 'ann')), 'nothing is left to change');
  }));

  it('can be run again, and then changes nothing and prints the same link', withServer({}, async () => {
    const first = people(await good('--user', 'ann', '--vault', 'family')).ann;
    const before = await api.ok('GET /_users/org.couchdb.user:ann');
    const out = await good('--user', 'ann', '--vault', 'family');
    const again = people(out).ann;
    assert.equal(again.link, first.link);
    assert.deepEqual([again.passphrase, again.password, again.vault], [undefined, undefined, undefined]);
    assert.match(out, /its passphrase was shown then/);
    assert.ok(!/The link has the address/.test(out), 'it may have another one than a new link');
    assert.deepEqual(await api.ok('GET /_users/org.couchdb.user:ann'), before);
    const moved = people(await good('--user', 'ann', '--vault', 'family', '--new-password', '--url', 'https://sync.example.com')).ann;
    const there = await open(moved.link, moved.passphrase);
    assert.deepEqual([there.couchDB_URI, there.passphrase], ['https://sync.example.com', moved.vault], 'an unused vault can be set up anew');
    await api.ok('PUT /family/note', { body: {} });
    await refused(/give the passphrase of its end-to-end encryption/, '--user', 'ann', '--vault', 'family', '--new-password');
    const file = join(api.server.folder, 'passphrase');
    writeFileSync(file, `${moved.vault}\n`);
    const fresh = people(await good('--user', 'ann', '--vault', 'family', '--new-password', '--vault-passphrase-file', file)).ann;
    const settings = await open(fresh.link, fresh.passphrase);
    assert.equal(settings.passphrase, moved.vault);
    assert.equal((await remote(settings).info()).db_name, 'family');
    assert.equal((await api.call('GET /family', { as: `ann:${first.password}` })).status, 401, 'the old password');
  }));

  it('changes nothing if it refuses', withServer({}, async () => {
    await api.ok('PUT /old');
    await api.ok('PUT /old/note', { body: {} });
    const state = async () => [
      await api.ok('GET /_node/_local/_config'),
      await api.ok('GET /old/_security'),
      await api.ok('GET /_users/_all_docs'),
      await api.ok('GET /_all_dbs'),
    ];
    const before = await state();
    await refused(/give the passphrase of its end-to-end encryption/, '--user', 'ann', '--vault', 'old');
    assert.deepEqual(await state(), before);
    await api.ok('PUT /_users/org.couchdb.user:bob', { body: { name: 'bob', type: 'user', roles: [], password: 'b' } });
    const withBob = await state();
    await refused(/bob has an account, and there is no link/, '--user', 'bob', '--vault', 'new');
    const file = join(api.server.folder, 'password');
    writeFileSync(file, 'wrong\n');
    await refused(/that is not the password of bob/, '--user', 'bob', '--vault', 'new', '--password-file', file);
    assert.deepEqual(await state(), withBob);
  }));

  it('gives rights only to accounts that exist: anybody could take the name of another', withServer({}, async () => {
    const { eve } = people(await good('--user', 'eve'));
    const before = await api.ok('GET /notes-eve/_security');
    const run = await livesync('--user', 'eve', '--share', 'frank');
    assert.equal(run.code, 1);
    assert.match(run.err, /give the passphrase of its end-to-end encryption/);
    assert.equal(people(run.out).eve.link, eve.link);
    assert.deepEqual(await api.ok('GET /notes-eve/_security'), before);
    assert.equal((await api.call('GET /_users/org.couchdb.user:frank')).status, 404);
  }));

  it('prints what is shown only once also if the file of the QR code cannot be written', withServer({}, async () => {
    const run = await livesync('--user', 'ann', '--svg', join(api.server.folder, 'none', 'code.svg'));
    assert.equal(run.code, 1);
    assert.match(run.err, /code.svg cannot be written/);
    const { ann } = people(run.out);
    assert.ok(ann.passphrase && ann.password && ann.vault, run.out);
    assert.equal((await open(ann.link, ann.passphrase)).couchDB_DBNAME, 'notes-ann');
  }));

  it('knows several vaults and people, and shares a vault with those who are named', withServer({}, async () => {
    const { ann } = people(await good('--user', 'ann', '--vault', 'family', '--plain', '--share', 'bob,carol'));
    const shared = people(await good('--user', 'ann', '--vault', 'family', '--share', 'bob', '--share', 'carol'));
    assert.deepEqual(Object.keys(shared), ['ann', 'bob', 'carol']);
    assert.equal(shared.ann.link, ann.link);
    const { dave } = people(await good('--user', 'ann', '--vault', 'family', '--share', 'dave'));
    const settings = await open(dave.link, dave.passphrase);
    assert.equal(settings.encrypt, undefined, 'the vault is plain');
    await remote(settings).put({ _id: 'note', text: 'hello' });
    assert.equal((await api.call('PUT /family/_security', { as: `dave:${dave.password}`, body: {} })).status, 403, 'only the owner gives rights');
    await refused(/belongs to ann. To share it: settee livesync --user ann --vault family --share eve/, '--user', 'eve', '--vault', 'family');
    const own = people(await good('--user', 'eve', '--vault', 'notes')).eve;
    assert.equal((await open(own.link, own.passphrase)).couchDB_DBNAME, 'notes');
    await api.ok('PUT /_users/org.couchdb.user:frank', { body: { name: 'frank', type: 'user', roles: [], password: 'f' } });
    const partly = await livesync('--user', 'ann', '--vault', 'family', '--share', 'frank');
    assert.equal(partly.code, 1);
    assert.deepEqual(Object.keys(people(partly.out)), ['ann'], 'what can be shown is shown');
    assert.match(partly.err, /frank has an account, and there is no link/);
    const frank = await settee(['livesync', '--data', join(api.server.folder, 'data'), '--user', 'frank', '--vault', 'family', '--password-file', '-'], { input: 'f' });
    assert.equal(frank.code, 0, frank.err);
    await remote(await open(people(frank.out).frank.link, people(frank.out).frank.passphrase)).get('note');
    await refused(/belongs to ann/, '--user', 'frank', '--vault', 'family', '--share', 'eve');
    await refused(/dave has an account, and there is no link for this vault/, '--user', 'dave', '--vault', 'own');
    const file = join(api.server.folder, 'password');
    writeFileSync(file, 'wrong');
    await refused(/that is not the password of dave/, '--user', 'dave', '--vault', 'own', '--password-file', file, '--plain');
    writeFileSync(file, dave.password);
    const second = people(await good('--user', 'dave', '--vault', 'own', '--password-file', file, '--plain')).dave;
    assert.equal((await open(second.link, second.passphrase)).couchDB_PASSWORD, dave.password);
    assert.equal((await remote(settings).get('note')).text, 'hello', 'the first vault still works');
    await refused(/dave has an account, and there/, '--user', 'dave', '--vault', 'third');
    const third = people(await good('--user', 'dave', '--vault', 'third', '--password-file', file)).dave;
    assert.equal((await open(third.link, third.passphrase)).passphrase, third.vault, 'a vault without a link is like a new one');
  }));

  it('lets the owner rebuild the vault: the plugin deletes the database, and it is there again, with its rights', withServer({}, async () => {
    const { ann, bob } = people(await good('--user', 'ann', '--plain', '--share', 'bob'));
    const db = remote(await open(ann.link, ann.passphrase));
    await db.put({ _id: 'note', text: 'old' });
    const security = await api.ok('GET /notes-ann/_security');
    const asBob = await api.call('DELETE /notes-ann', { as: `bob:${bob.password}` });
    assert.deepEqual([asBob.status, asBob.json.reason], [403, 'You are not a db or server admin.']);
    assert.equal((await api.call('DELETE /notes-ann', { as: null })).status, 401);
    const before = await db.info();
    await db.destroy();
    const again = remote(await open(ann.link, ann.passphrase));
    const after = await again.info();
    assert.equal(after.doc_count, 0);
    assert.notEqual(after.update_seq.split('-')[1], before.update_seq.split('-')[1], 'it is another database to those who replicate');
    assert.deepEqual(await api.ok('GET /notes-ann/_security'), security);
    await again.put({ _id: 'note', text: 'new' });
    await api.ok('PUT /other');
    await api.ok('PUT /other/_security', { body: { admins: { names: ['ann'] }, members: { names: ['ann'] } } });
    assert.equal((await api.call('DELETE /other', { as: `ann:${ann.password}` })).status, 401, 'what is no vault is deleted by server admins only');
    await api.ok('DELETE /notes-ann');
    assert.equal((await api.call('GET /notes-ann')).status, 404, 'a server admin removes it for good');
  }));

  it('refuses what cannot work', withServer({}, async () => {
    await refused(/admin is a server admin/, '--user', 'admin');
    await refused(/cannot be the name of a vault/, '--user', 'ann', '--vault', 'My Notes');
    await refused(/cannot be the name of an account/, '--user', 'a:b');
    await refused(/does not begin with https/, '--user', 'ann', '--url', 'sync.example.com');
  }));

  it('works on the data folder of a stopped server, and over the network', { skip: noFolder }, withServer({}, async () => {
    const { port, folder } = api.server;
    api.server.child.kill('SIGTERM');
    await api.server.exited;
    const out = await good('--user', 'ann', '--url', 'https://sync.example.com/', '--svg', join(folder, 'code.svg'));
    assert.match(out, /\(its server does not run\)/);
    assert.match(readFileSync(join(folder, 'code.svg'), 'utf8'), /^<svg /);
    assert.equal(statSync(join(folder, 'code.svg')).mode & 0o777, 0o600);
    await api.server.restart();
    const { ann } = people(out);
    const settings = await open(ann.link, ann.passphrase);
    assert.equal(settings.couchDB_URI, 'https://sync.example.com');
    assert.equal((await remote({ ...settings, couchDB_URI: api.base }).info()).db_name, 'notes-ann');
    const there = await settee(['livesync', '--server', api.base, '--user', 'bob'], { env: { COUCHDB_USER: 'admin', COUCHDB_PASSWORD: 'pass word:1' } });
    assert.equal(there.code, 0, there.err);
    const { bob } = people(there.out);
    assert.equal((await open(bob.link, bob.passphrase)).couchDB_URI, `http://127.0.0.1:${port}`);
  }));

  it('says of which kind the address in the link is, if the server does not run', { skip: noFolder }, withServer({}, async () => {
    const stop = async () => {
      api.server.child.kill('SIGTERM');
      await api.server.exited;
    };
    const address = async (out, user) => (await open(people(out)[user].link, people(out)[user].passphrase)).couchDB_URI;
    const asked = await good('--user', 'ann');
    assert.match(asked, new RegExp(`The link has the address http://localhost:${api.server.port}\\.\\n`));
    assert.ok(!/no running server was asked/.test(asked));
    await stop();
    const guessed = await good('--user', 'bob');
    assert.equal(await address(guessed, 'bob'), 'http://localhost:5984');
    assert.match(guessed, /The link has the address http:\/\/localhost:5984\.\nThis address is the default, because no running server was asked\. .*--bind,[^]*--url URL/);
    const given = await good('--user', 'carol', '--url', 'https://sync.example.com');
    assert.match(given, /The link has the address https:\/\/sync.example.com\.$/m);
    assert.ok(!/no running server was asked/.test(given));
    await api.server.restart();
    await api.ok('PUT /_node/_local/_config/chttpd/port', { body: '"7001"' });
    await stop();
    const stored = await good('--user', 'dave');
    assert.equal(await address(stored, 'dave'), 'http://localhost:7001');
    assert.match(stored, /This address is a guess from the stored settings, because no running server was asked/);
    await api.server.restart();
  }));

  it('takes the port that a running server got from the system', () =>
    inFolder(async (folder) => {
      const child = spawn(binary(), ['--data', join(folder, 'data'), '--bind', '127.0.0.1:0'], { stdio: ['ignore', 'ignore', 'pipe'] });
      let log = '';
      child.stderr.on('data', (part) => (log += part));
      const exited = new Promise((resolve) => child.on('exit', resolve));
      try {
        await until('the start', () => /settee is ready: \S+\//.test(log));
        // The control socket is made right after this line.
        await until('the control socket', () => existsSync(join(folder, 'data', 'control')));
        const { code, out, err } = await settee(['livesync', '--user', 'ann', '--data', join(folder, 'data')]);
        assert.equal(code, 0, err);
        assert.match(out, new RegExp(`The link has the address http://localhost:${log.match(/ready: http:\/\/localhost:(\d+)\//)[1]}\\.`));
      } finally {
        child.kill('SIGTERM');
        await exited;
      }
    }));

  it('hints at a server elsewhere if there is no data folder', () =>
    inFolder(async (folder) => {
      for (const [args, hint] of [
        [['--user', 'ann'], /\/var\/lib\/settee\nFor a server elsewhere: --server https:\/\/ADMIN:PASSWORD@HOST$/m],
        [['--doctor'], /\/var\/lib\/settee\nFor a server elsewhere: --doctor https:\/\/ADMIN:PASSWORD@HOST$/m],
      ]) {
        const { code, err } = await settee(['livesync', ...args, '--data', join(folder, 'none')]);
        assert.equal(code, 1);
        assert.match(err, /is not a settee data folder: it is empty, or not there/);
        assert.match(err, hint);
      }
    }));

  it('--doctor says what the plugin would complain of, and cures it when asked', withServer({ args: ['--set', 'couchdb/max_document_size=8000000', '--set', 'cors/origins=https://app.example.com'] }, async () => {
    const sick = await livesync('--doctor');
    assert.equal(sick.code, 1);
    const wrong = [...sick.out.matchAll(/^ {7}cure: (\S+) = (.*)$/gm)].map(([, key, value]) => [key, value]);
    const red = Object.entries(await check(api)).filter(([key, value]) => value !== '' && key !== 'httpd/WWW-Authenticate');
    assert.deepEqual(Object.fromEntries(wrong), Object.fromEntries(red), "the doctor's cures are those of the plugin's buttons");
    const cured = await livesync('--doctor', '--apply');
    assert.equal(cured.code, 0, cured.out);
    assert.deepEqual(await check(api), {});
    const well = await settee(['livesync', '--doctor', `${api.base.replace('://', '://admin:pass%20word%3A1@')}`]);
    assert.equal(well.code, 0, well.out + well.err);
    assert.match(well.out, /LiveSync has nothing to complain of/);
    const stranger = await settee(['livesync', '--doctor', `${api.base.replace('://', '://ann:x@')}`]);
    assert.equal(stranger.code, 1);
    assert.match(stranger.err, /the server answers 401/);
  }));
});
