// Two live PouchDBs that sync with a server while it is upgraded: node live.mjs URL
//
// Prints `ready` once both sync. When the standard input ends, it stops writing, waits until both devices and the server
// have every document, and prints a line of JSON: the documents that were written, how many connections of a client
// that opens one every 20 ms were refused, and its longest pause in milliseconds. Exits with 1 if a document is missing.

import { createRequire } from 'node:module';
import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { until } from '../harness/server.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));

const [url] = process.argv.slice(2);
const remote = new PouchDB(url);
await remote.info();
const devices = ['phone', 'laptop'].map((name) => {
  const db = new PouchDB(`${name}-${randomBytes(4).toString('hex')}`, { adapter: 'memory' });
  // PouchDB 9 asks the source for info() and does not handle its failure while the server restarts.
  const far = new PouchDB(url);
  const info = far.info.bind(far);
  far.info = () => info().catch(() => ({ db_name: name, update_seq: '0' }));
  return { name, db, sync: db.sync(far, { live: true, retry: true, back_off_function: () => 200 }) };
});

const run = randomBytes(4).toString('hex');
let [written, refused, pause, ended] = [0, 0, 0, false];
const writing = (async () => {
  while (!ended) {
    for (const { name, db } of devices) await db.put({ _id: `${run}-${name}-${written++}`, text: 'written while it is upgraded' });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
})();

/** Resolves to whether the server answered a request on a connection of its own. */
function probe() {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket = net.connect({ host: hostname, port });
    socket.on('connect', () => socket.write(`GET /_up HTTP/1.1\r\nHost: ${hostname}\r\nConnection: close\r\n\r\n`));
    socket.on('data', () => resolve(true));
    socket.on('error', () => resolve(false));
    socket.on('close', () => resolve(false));
  });
}
const probing = (async () => {
  while (!ended) {
    const start = performance.now();
    if (!(await probe())) refused++;
    pause = Math.max(pause, Math.round(performance.now() - start));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
})();

const count = async (db) => (await db.allDocs()).rows.filter(({ id }) => id.startsWith(run)).length;
await until('both devices sync', async () => {
  const counts = await Promise.all(devices.map(({ db }) => count(db)));
  return counts.every((rows) => rows > 20) && (await count(remote)) > 20;
});
console.log('ready');

await new Promise((resolve) => process.stdin.on('end', resolve).resume());
ended = true;
await Promise.all([writing, probing]);
const everywhere = async () => {
  const counts = await Promise.all([remote, ...devices.map(({ db }) => db)].map((db) => count(db).catch(() => -1)));
  return counts.every((rows) => rows === written);
};
let failed = null;
await until('every document on every device', everywhere, 60).catch((error) => (failed = error));
for (const { sync } of devices) sync.cancel();
console.log(JSON.stringify({ written, refused, pause }));
if (failed) console.error(String(failed));
process.exit(failed ? 1 : 0);
