// PostgreSQL on a full disk, while clients write: first its tables do not fit, then its log does not, and it ends. settee
// answers reads as long as PostgreSQL does, refuses writes with 503, and goes on when there is room again. Nothing that was
// acknowledged is lost.

import { randomBytes } from 'node:crypto';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { until } from '../harness/server.js';
import { Postgres } from '../harness/postgres.js';
import { SmallDisk } from '../harness/small_disk.js';

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

describe('a full disk of PostgreSQL', { timeout: 300_000 }, () => {
  let [disk, postgres, node, why] = [];

  before(async () => {
    disk = await SmallDisk.mount(160);
    if (typeof disk === 'string') [disk, why] = [undefined, disk];
    if (!disk) return;
    postgres = await new Postgres('full', { disk: disk.folder }).create({ max_wal_size: '60MB', min_wal_size: '30MB' }, ['--wal-segsize=1']);
    process.env.SETTEE_TEST_STORE = postgres.address;
    node = new Api();
    await node.start();
  });
  after(async () => {
    await node?.stop();
    await postgres?.clean();
    await disk?.remove();
  });

  it('refuses writes with 503, answers reads, and loses nothing', async (test) => {
    if (!disk) return test.skip(why);
    const db = await node.db();
    const ledger = new Map();
    const refused = [];
    const failures = [];
    let working = true;

    const writer = async (at) => {
      for (let n = 0; working; n++) {
        const id = `w${at}-${n}`;
        const file = n % 5 === 4;
        const bytes = randomBytes(file ? 40_000 : 8_000);
        const write = file
          ? node.call(`PUT /${db}/${id}/file`, { body: bytes, send: { 'Content-Type': 'x/y' } })
          : node.call(`PUT /${db}/${id}`, { body: { text: bytes.toString('base64') } });
        const { status, text, json, headers } = await write;
        if (status === 201) {
          ledger.set(id, { rev: json.rev, bytes, file });
        } else {
          if (status !== 503 || !headers['retry-after']) failures.push(`${status} ${text}`);
          refused.push(id);
          await pause(50);
        }
      }
    };
    const isAnswered = () => postgres.sql('select 1').then(() => true, () => false);
    const read = (id) => node.call(`GET /${db}/${id}`);
    let reads = 0;
    const reader = async () => {
      while (working) {
        const ids = [...ledger.keys()];
        const id = ids[Math.floor(Math.random() * ids.length)];
        if (id) {
          const before = await isAnswered();
          const { status, text, json } = await read(id);
          if (status === 200) {
            reads += refused.length > 0 ? 1 : 0;
            if (json._rev !== ledger.get(id).rev) failures.push(`${id}: ${text}`);
          } else if (status !== 503 || (before && (await isAnswered()) && !postgres.log().includes('PANIC'))) {
            failures.push(`a read of ${id}: ${status} ${text}`);
          }
        }
        await pause(20);
      }
    };
    const work = [0, 1, 2, 3].map(writer).concat(reader());
    const acknowledged = async (more) => {
      const wanted = ledger.size + more;
      await until(`${more} writes`, () => ledger.size >= wanted || failures.length > 0, 60);
    };

    try {
      await acknowledged(50);
      // Files for the log, which it will use again.
      for (let n = 0; n < 40; n++) await postgres.sql('select pg_logical_emit_message(true, \'\', \'\'); select pg_switch_wal()');
      await postgres.sql('checkpoint');
      // From now on it must keep its log.
      await postgres.sql("select pg_create_physical_replication_slot('left', true)");
      disk.fill(2 << 20);
      await until('writes to be refused', () => refused.length > 0, 60);
      const [before, last] = [reads, [...ledger.keys()].at(-1)];
      await until('reads to be answered', () => reads > before + 5 || failures.length > 0, 60);
      assert.doesNotMatch(postgres.log(), /PANIC/);

      // No room for more files of the log either.
      disk.fill();
      const writes = () => postgres.sql("select pg_logical_emit_message(true, '', ''); select pg_switch_wal()").then(() => false, () => false);
      await until('PostgreSQL to end', () => postgres.isGone || writes(), 60);
      assert.match(postgres.log(), /PANIC: .*No space left on device/);
      for (const req of ['GET /_up', `GET /${db}/${last}`, `PUT /${db}/while-away`]) {
        const { status, headers } = await node.call(req, { body: req.startsWith('PUT') ? {} : undefined });
        assert.equal(status, 503, req);
        assert.ok(headers['retry-after'], req);
      }
      assert.equal(node.server.child.exitCode, null, 'settee runs');

      disk.empty();
      await postgres.start();
      await postgres.sql("select pg_drop_replication_slot('left')");
      await acknowledged(50);
    } finally {
      working = false;
      await Promise.allSettled(work);
    }
    assert.deepEqual(failures, []);
    assert.equal((await node.call('GET /_up')).status, 200);
    for (const [id, { rev, bytes, file }] of ledger) {
      const found = await read(id);
      assert.equal(found.json?._rev, rev, `${id}: ${found.status} ${found.text}`);
      if (!file) assert.equal(found.json.text, bytes.toString('base64'));
      else assert.ok((await node.call(`GET /${db}/${id}/file`)).body.equals(bytes), id);
    }
    const { results } = await node.ok(`GET /${db}/_changes`);
    const listed = new Set(results.map(({ id }) => id));
    assert.deepEqual([...ledger.keys()].filter((id) => !listed.has(id)), []);
    test.diagnostic(`${ledger.size} acknowledged writes, ${refused.length} refused, ${reads} reads meanwhile`);
  });
});
