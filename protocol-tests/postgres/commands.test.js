// The commands of settee on a PostgreSQL: check, backup, restore, convert, admin, livesync, while a server runs on it.

import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, before, after, assert, Api, like } from '../harness/rows.js';
import { until } from '../harness/server.js';
import { settee } from '../harness/command.js';

assert.ok(process.env.SETTEE_TEST_STORE, 'SETTEE_TEST_STORE names no PostgreSQL: run protocol-tests/run.sh postgres');
const schema = (name) => `${process.env.SETTEE_TEST_STORE}?schema=${name}`;

describe('commands on a PostgreSQL', () => {
  const api = new Api();
  const folder = mkdtempSync(join(tmpdir(), 'settee-test-'));
  const fresh = () => `t_${randomBytes(8).toString('hex')}`;
  const store = schema(api.server.schema);
  let db;

  before(async () => {
    await api.start();
    db = await api.db();
    const docs = Array.from({ length: 300 }, (_, n) => ({ _id: `doc${n}`, n }));
    await api.ok(`POST /${db}/_bulk_docs`, { body: { docs } });
    await api.ok(`PUT /${db}/with/a.bin`, { body: Buffer.alloc(600_000, 3), send: { 'Content-Type': 'x/y' } });
    await api.ok(`PUT /${db}/_security`, { body: { members: { names: ['ann'] } } });
  });
  after(async () => {
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const run = async (args, options) => {
    const done = await settee(args, options);
    assert.equal(done.code, 0, `${args.join(' ')}: ${done.out}${done.err}`);
    return done.out;
  };
  /** A server on this schema has everything. */
  const holds = async (options) => {
    const other = new Api(options);
    await other.start();
    try {
      assert.equal((await other.ok(`GET /${db}`)).doc_count, 301);
      assert.equal((await other.call(`GET /${db}/with/a.bin`)).headers['content-length'], '600000');
      like(await other.ok(`GET /${db}/_security`), { members: { names: ['ann'] } });
    } finally {
      await other.stop();
    }
  };

  it('check finds nothing wrong while a server runs', async () => {
    assert.match(await run(['check', '--store', store]), /all is well/);
  });

  it('a backup of a running server is restored into another schema, and into a folder', async () => {
    const file = join(folder, 'backup');
    assert.match(await run(['backup', '--store', store, file]), /documents are in/);
    const to = fresh();
    await run(['restore', file, '--store', schema(to)]);
    assert.match(await run(['check', '--store', schema(to)]), /all is well/);
    await holds({ schema: to });
    const again = await settee(['restore', file, '--store', schema(to)]);
    assert.equal(again.code, 1);
    assert.match(again.err, /is not empty/);
    await run(['restore', file, '--data', join(folder, 'restored')]);
    assert.match(await run(['check', '--data', join(folder, 'restored')]), / 1 attachments \(600 KB\)[^]*all is well/);
  });

  it('convert moves everything to a folder and back, and clients go on where they were', async () => {
    const [data, to] = [join(folder, 'converted'), fresh()];
    const since = (await api.ok(`GET /${db}/_changes`)).last_seq;
    assert.match(await run(['convert', store, data]), /all is well/);
    assert.match(await run(['convert', data, schema(to)]), /all is well/);
    await holds({ schema: to });
    const other = await new Api({ schema: to }).server.start();
    const answer = await fetch(`${other.base}/${db}/_changes?since=${since}`, { headers: { Authorization: `Basic ${btoa('admin:pass word:1')}` } });
    assert.deepEqual((await answer.json()).results, []);
    await other.stop();
  });

  it('admin makes a server admin whom a running server accepts', async () => {
    const file = join(folder, 'password');
    writeFileSync(file, 'new secret');
    assert.equal((await api.call(`GET /${db}`, { as: 'eve:new secret' })).status, 401);
    assert.match(await run(['admin', 'eve', '--store', store, '--password-file', file]), /eve is a server admin now, on the store/);
    await until('the server to know the admin', async () => (await api.call('GET /_all_dbs', { as: 'eve:new secret' })).status === 200);
  });

  it('livesync makes account, database and link', async () => {
    const out = await run(['livesync', '--user', 'ann', '--store', store, '--url', 'https://sync.example.com']);
    assert.match(out, /obsidian:\/\/setuplivesync\?settings=/);
    assert.equal((await api.ok('GET /notes-ann')).db_name, 'notes-ann');
    assert.equal((await api.call('GET /_users/org.couchdb.user:ann')).status, 200);
  });

  it('say what cannot be done, and no password', async () => {
    for (const args of [['check'], ['backup', join(folder, 'none')], ['admin', 'eve']]) {
      const [command, ...rest] = args;
      const missing = await settee([command, ...rest, '--store', schema('there_is_none')]);
      assert.equal(missing.code, 1, missing.out);
      assert.match(missing.err, /there is no settee store/);
      const gone = await settee([command, ...rest, '--store', 'postgres://settee:top-secret@127.0.0.1:1/postgres']);
      assert.equal(gone.code, 1, gone.out);
      assert.ok(!gone.err.includes('top-secret'), gone.err);
    }
  });
});
