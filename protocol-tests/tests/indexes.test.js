// Kills the server while it builds, reads and updates views and Mango indexes. After each start, their
// results equal those of a scan over all documents; in the end, `settee check` finds no errors.
//
// By default each server is killed four times; `KILLS=100 node --test tests/indexes.test.js` is the long
// version. SEED=... repeats the random choices of a run (but not its timing).

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, it, assert } from '../harness/rows.js';
import { random } from '../harness/proxy.js';
import { ADMIN, PASSWORD, Server, binary, external } from '../harness/server.js';
import { request } from '../harness/http.js';

const kills = Number(process.env.KILLS ?? 4);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const authorization = `Basic ${Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64')}`;

for (const engine of ['sled', 'redb']) {
  describe(`indexes through kills, ${engine}`, { skip: !!external }, () => {
    it(`a view with a reduce and a Mango index, ${kills} kills`, async () => {
      const seed = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
      const draw = random(seed);
      console.log(`${engine}: SEED=${seed}`);
      const server = await new Server({ args: ['--store', engine] }).start();
      const ask = async (method, path, json) => {
        const headers = { authorization };
        const answer = await request(server.base, { method, path, headers, body: json, fresh: true });
        assert.ok(answer.status < 300, `${method} ${path}: ${answer.status} ${answer.text} (SEED=${seed})`);
        return answer.json;
      };
      await ask('PUT', '/db');
      const map = 'function (doc) { if (doc.k === undefined) return; emit(doc.k, doc.n); emit([doc.k % 7, doc._id], 1); }';
      await ask('PUT', '/db/_design/d', { views: { v: { map, reduce: '_stats' } } });
      await ask('POST', '/db/_index', { index: { fields: ['k'] }, ddoc: 'm', name: 'k' });

      let working = true;
      // When the server is killed, each worker ends with a connection error. Any other error fails the test.
      const until = async (step) => {
        while (working && (await step().then(() => true, (error) => assert.match(error.code ?? '', /^(ECONN|EPIPE)/, error)))) await pause(1);
      };
      const edit = () => until(async () => {
        const keys = Array.from({ length: [1, 5, 300, 1000][draw.below(4)] }, () => `doc${draw.below(8000)}`);
        const { rows } = await ask('POST', '/db/_all_docs', { keys: [...new Set(keys)] });
        const docs = rows.map(({ key, value }) => {
          const living = value && !value.deleted;
          const doc = { _id: key, k: draw.below(2000), n: draw.below(100) };
          if (value) doc._rev = value.rev;
          return living && draw.chance(0.1) ? { ...doc, _deleted: true } : doc;
        });
        await ask('POST', '/db/_bulk_docs', { docs });
      });
      const read = () => until(async () => {
        await ask('GET', '/db/_design/d/_view/v?group_level=1&limit=5');
        await ask('POST', '/db/_find', { selector: { k: { $gt: 1990 } }, limit: 5 });
        await ask('GET', '/db/_design/d/_view/v?reduce=false&descending=true&limit=3');
      });

      let count = 0;
      for (let kill = 0; kill < kills; kill += 1) {
        working = true;
        const work = [edit(), edit(), read(), read()];
        await pause(200 + draw.below(1500));
        await server.kill();
        working = false;
        await Promise.all(work);
        await server.start();

        const all = await ask('GET', '/db/_all_docs?include_docs=true');
        const docs = all.rows.map(({ doc }) => doc).filter((doc) => doc.k !== undefined);
        const order = (one, two) => one.k - two.k || (one._id < two._id ? -1 : 1);
        docs.sort(order);
        const told = `kill ${kill} (SEED=${seed})`;
        const plain = await ask('GET', '/db/_design/d/_view/v?reduce=false&endkey=1000000');
        assert.deepEqual(plain.rows.map(({ key, id, value }) => [key, id, value]), docs.map(({ k, _id, n }) => [k, _id, n]), told);
        const groups = new Map();
        for (const { k } of docs) groups.set(k % 7, (groups.get(k % 7) ?? 0) + 1);
        const expected = [...groups].sort(([one], [two]) => one - two);
        for (const descending of [false, true]) {
          const range = descending ? 'endkey=%5B%5D&descending=true' : 'startkey=%5B%5D';
          const { rows } = await ask('GET', `/db/_design/d/_view/v?group_level=1&${range}`);
          if (descending) rows.reverse();
          assert.deepEqual(rows.map(({ key, value }) => [key[0], value.count]), expected, told);
        }
        const found = await ask('POST', '/db/_find', { selector: { k: { $gt: 900 } }, sort: ['k'], fields: ['_id', 'k'], limit: 100_000 });
        assert.deepEqual(found.docs, docs.filter(({ k }) => k > 900).map(({ _id, k }) => ({ _id, k })), told);
        count = docs.length;
      }
      await server.kill();
      const said = spawnSync(binary(), ['check', '--data', join(server.folder, 'data')], { encoding: 'utf8' });
      assert.equal(said.status, 0, `settee check: ${said.stdout}${said.stderr}`);
      assert.doesNotMatch(server.log(), /panicked at/);
      console.log(`${engine}: ${kills} kills, ${count} documents at the end`);
      server.remove();
    });
  });
}
