// Measures PouchDB 9 from npm: `node client.mjs URL COUNT` pushes and pulls COUNT documents and prints the
// seconds of both.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../protocol-tests/package.json', import.meta.url));
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));

const [address, count] = process.argv.slice(2);
const remote = new PouchDB(address);
const text = 'the quick brown fox jumps over the lazy dog '.repeat(8);
const docs = Array.from({ length: Number(count) }, (_, n) => ({ _id: `d${String(n).padStart(8, '0')}`, number: n, text }));
const seconds = async (work) => {
  const from = process.hrtime.bigint();
  const { docs_written: written } = await work();
  if (written !== docs.length) throw new Error(`${written} of ${docs.length} documents were written`);
  return Number(process.hrtime.bigint() - from) / 1e9;
};
const here = new PouchDB('here', { adapter: 'memory' });
await here.bulkDocs(docs);
const options = { batch_size: 500 };
const push = await seconds(() => here.replicate.to(remote, options));
const there = new PouchDB('there', { adapter: 'memory' });
const pull = await seconds(() => there.replicate.from(remote, options));
console.log(push, pull);
process.exit(0);
