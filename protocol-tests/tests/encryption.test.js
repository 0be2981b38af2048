// Encryption at rest (docs/encryption.md): no plaintext on the disk, the errors without the right key, and
// the key in `settee make-key`, `compact-store`, `backup` and `restore`.

import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, statSync, writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { describe, it, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { request } from '../harness/http.js';
import { Server, binary, external, noFolder, ADMIN, PASSWORD } from '../harness/server.js';

const KNOWN = 'the quick brown fox is known to everybody ';
const TEXT = Buffer.from(KNOWN.repeat(5000));

/** Runs settee, without the encryption variables of this process; `env` adds variables. */
function settee(args, env = {}) {
  const { SETTEE_ENCRYPTION_KEY, SETTEE_ENCRYPTION_KEY_FILE, SETTEE_DATA, ...rest } = process.env;
  const ran = spawnSync(binary(), args, { env: { ...rest, ...env }, encoding: 'utf8', timeout: 120_000 });
  return { code: ran.status, out: ran.stdout + ran.stderr };
}

function* files(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) yield* files(path);
    else if (statSync(path).isFile()) yield path;
  }
}

/** Returns the files in the folder, recursively, whose content or path contains one of the texts. */
function showing(folder, texts) {
  return [...files(folder)].filter((path) => {
    const bytes = readFileSync(path);
    return texts.some((text) => bytes.includes(text) || path.includes(text));
  });
}

describe('encryption at rest', { skip: !!external }, () => {
  let keys;
  const key = (name) => join(keys, name);
  const server = new Server();
  const data = () => join(server.folder, 'data');
  const ask = (method, path, body, headers = {}) =>
    request(server.base, {
      method,
      path,
      body,
      headers: { authorization: `Basic ${Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64')}`, ...headers },
      fresh: true,
    });
  const json = { 'content-type': 'application/json' };
  /** Stops the server with SIGTERM and keeps the folder. */
  const halt = async () => {
    const child = server.child;
    server.child = null;
    child.kill('SIGTERM');
    const how = await server.exited;
    assert.equal(how.code, 0, server.log());
  };
  /** Asserts that the document, its attachment and the view are unchanged. */
  const isAllThere = async () => {
    const doc = await ask('GET', '/db/doc');
    assert.equal(doc.status, 200, doc.text);
    assert.equal(doc.json.said, KNOWN);
    const whole = await ask('GET', '/db/doc/a.bin');
    assert.equal(createHash('sha256').update(whole.body).digest('hex'), createHash('sha256').update(TEXT).digest('hex'));
    const range = await ask('GET', '/db/doc/a.bin', undefined, { range: 'bytes=65530-131100' });
    assert.equal(range.status, 206);
    assert.ok(TEXT.subarray(65530, 131101).equals(range.body));
    const view = await ask('GET', '/db/_design/d/_view/v');
    assert.deepEqual(view.json.rows, [{ id: 'doc', key: 1, value: KNOWN }]);
  };
  const digests = [
    createHash('sha256').update(TEXT).digest('hex'),
    createHash('sha256').update(TEXT).digest(),
    createHash('md5').update(TEXT).digest(),
  ];
  const everywhere = [KNOWN.slice(0, 20), PASSWORD, ...digests];

  before(() => {
    keys = mkdtempSync(join(tmpdir(), 'settee-keys-'));
  });
  after(async () => {
    await server.stop();
    server.remove();
    rmSync(keys, { recursive: true, force: true });
  });

  it('make-key creates a key file that only its owner may read, and never overwrites one', () => {
    for (const name of ['one', 'two']) {
      const made = settee(['make-key', key(name)]);
      assert.equal(made.code, 0, made.out);
      assert.equal(statSync(key(name)).mode & 0o777, 0o600);
      assert.equal(Buffer.from(readFileSync(key(name), 'utf8').trim(), 'base64').length, 32);
      assert.ok(!made.out.includes(readFileSync(key(name), 'utf8').trim()), 'it is not shown');
    }
    const again = settee(['make-key', key('one')]);
    assert.notEqual(again.code, 0);
  });

  it('a server with a key works as usual', async () => {
    server.args = ['--encryption-key-file', key('one')];
    await server.start();
    assert.equal((await ask('PUT', '/db')).status, 201);
    const view = { views: { v: { map: 'function (doc) { if (doc.said) emit(1, doc.said); }' } } };
    assert.equal((await ask('PUT', '/db/_design/d', JSON.stringify(view), json)).status, 201);
    const put = await ask('PUT', '/db/doc', JSON.stringify({ said: KNOWN }), json);
    assert.equal(put.status, 201);
    const attached = await ask('PUT', `/db/doc/a.bin?rev=${put.json.rev}`, TEXT, { 'content-type': 'image/png' });
    assert.equal(attached.status, 201, attached.text);
    await isAllThere();
  });

  it('_config neither returns nor accepts the key or the name of its file', async () => {
    const all = await ask('GET', '/_node/_local/_config');
    assert.ok(!all.text.includes('encryption') && !all.text.includes(key('one')), all.text);
    for (const name of ['encryption_key_file', 'encryption_key']) {
      assert.equal((await ask('GET', `/_node/_local/_config/settee/${name}`)).status, 404);
      assert.equal((await ask('PUT', `/_node/_local/_config/settee/${name}`, '"/etc/passwd"', json)).status, 403);
    }
  });

  it('neither data nor key appear in the data folder or the log', async () => {
    await halt();
    assert.deepEqual(showing(data(), everywhere), []);
    const text = readFileSync(key('one'), 'utf8').trim();
    assert.deepEqual(showing(server.folder, [text, Buffer.from(text, 'base64')]), []);
  });

  it('without the key, with another key or with an invalid one, the start fails with a hint', { skip: noFolder }, () => {
    const serve = (args, env) => settee(['serve', '--data', data(), '--bind', '127.0.0.1:0', ...args], env);
    const none = serve([]);
    assert.equal(none.code, 1, none.out);
    assert.match(none.out, /is encrypted: name the file with the key [0-9a-f]{16} by --encryption-key-file/);
    const other = serve(['--encryption-key-file', key('two')]);
    assert.equal(other.code, 1, other.out);
    assert.match(other.out, /encrypted under the key [0-9a-f]{16}, and the one given is [0-9a-f]{16}/);
    const wrong = serve([], { SETTEE_ENCRYPTION_KEY: 'correct horse battery staple' });
    assert.equal(wrong.code, 2, wrong.out);
    assert.match(wrong.out, /make-key/);
    assert.ok(!wrong.out.includes('horse'), wrong.out);
  });

  it('compact-store changes the key', { skip: noFolder }, async () => {
    const done = settee(['compact-store', '--data', data(), '--encryption-key-file', key('one'), '--to-key-file', key('two')]);
    assert.equal(done.code, 0, done.out);
    server.args = [];
    server.env = { SETTEE_ENCRYPTION_KEY: readFileSync(key('two'), 'utf8').trim() };
    await server.start();
    await isAllThere();
  });

  it('a backup of a running server is encrypted, and can be restored with another key', { skip: noFolder }, async () => {
    const file = join(server.folder, 'all.backup');
    const refused = settee(['backup', '--data', data(), file]);
    assert.equal(refused.code, 1, refused.out);
    assert.match(refused.out, /--plaintext/);
    const done = settee(['backup', '--data', data(), '--encryption-key-file', key('two'), file]);
    assert.equal(done.code, 0, done.out);
    assert.ok(!readFileSync(file).includes(KNOWN));
    await halt();
    const restored = settee(['restore', file, '--data', join(server.folder, 'restored'),
      '--backup-key-file', key('two'), '--encryption-key-file', key('one')]);
    assert.equal(restored.code, 0, restored.out);
    const checked = settee(['check', '--data', join(server.folder, 'restored'), '--encryption-key-file', key('one')]);
    assert.equal(checked.code, 0, checked.out);
    assert.deepEqual(showing(join(server.folder, 'restored'), everywhere), []);
  });

  it('compact-store decrypts a folder, which then rejects a key', { skip: noFolder }, async () => {
    const done = settee(['compact-store', '--data', data(), '--encryption-key-file', key('two'), '--to-plaintext']);
    assert.equal(done.code, 0, done.out);
    assert.notDeepEqual(showing(data(), [KNOWN.slice(0, 20)]), []);
    const refused = settee(['serve', '--data', data(), '--bind', '127.0.0.1:0', '--encryption-key-file', key('two')]);
    assert.equal(refused.code, 1, refused.out);
    assert.match(refused.out, /is not encrypted/);
    server.env = {};
    await server.start();
    await isAllThere();
  });

  it('compact-store encrypts a folder and leaves no plaintext', { skip: noFolder }, async () => {
    await halt();
    const done = settee(['compact-store', '--data', data(), '--to-key-file', key('one')]);
    assert.equal(done.code, 0, done.out);
    assert.deepEqual(showing(data(), everywhere), []);
    writeFileSync(join(server.folder, 'settee.toml'), `encryption_key_file = ${JSON.stringify(key('one'))}\n`);
    server.args = ['--config', join(server.folder, 'settee.toml')];
    await server.start();
    await isAllThere();
  });
});
