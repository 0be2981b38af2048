// A little of all that a busy server does, on each engine and on a PostgreSQL, for scripts/release.sh: the compiler learns from
// it which parts of the binary are hot.
//
//   SETTEE_BIN=BINARY BENCH_SECONDS=2 protocol-tests/postgres.sh node benches/train.mjs

import http2 from 'node:http2';
import { SECONDS, fill, load } from './load.mjs';
import { Server, authorization } from './server.mjs';

/** The loads, and their connections. Those that sync and apps wait for most come first; the rest must only not be missing. */
const LOADS = [
  ['get', 32], ['put', 32], ['putEach', 32], ['bulk', 4], ['edits', 4], ['diff', 4], ['bulkGet', 4], ['changes', 2], ['longpoll', 32],
  ['put', 1], ['allDocs', 2], ['view', 4], ['find', 2], ['file', 4],
];

/** Reads documents over HTTP/2, 32 at a time on one connection. */
async function overHttp2({ port }) {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  const end = Date.now() + SECONDS * 1000;
  const read = (id) => new Promise((resolve, reject) => {
    session.request({ ':path': `/read/r${id}`, authorization }).on('error', reject).on('end', resolve).resume();
  });
  await Promise.all(Array.from({ length: 32 }, async (_, at) => {
    for (let n = 0; Date.now() < end; n++) await read((n * 31 + at) % 20000);
  }));
  session.close();
}

for (const store of ['sled', 'redb', process.env.SETTEE_TEST_STORE]) {
  const server = await Server.started(store);
  await fill(server);
  for (const [kind, connections] of LOADS) await load([server], kind, connections);
  await overHttp2(server);
  await server.stop();
  server.remove();
}
