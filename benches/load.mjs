// Load on servers from worker threads, for benches/postgres.mjs and benches/train.mjs.

import http from 'node:http';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { authorization } from './server.mjs';

/** Duration of each load, in seconds. */
export const SECONDS = Number(process.env.BENCH_SECONDS ?? 5);
const BODY = JSON.stringify({ text: 'x'.repeat(400), n: 1 });

const ask = (agent, port, method, path, body) =>
  new Promise((resolve, reject) => {
    const call = http.request({ agent, host: '127.0.0.1', port, method, path, headers: { authorization, 'Content-Type': 'application/json', ...(body ? { 'Content-Length': Buffer.byteLength(body) } : {}) } }, (answer) => {
      let length = 0;
      const parts = [];
      answer.on('data', (part) => ((length += part.length), length < 65536 && parts.push(part)));
      answer.on('end', () => resolve({ status: answer.statusCode, text: Buffer.concat(parts).toString() }));
      answer.on('error', reject);
    });
    call.on('error', reject);
    call.end(body);
  });

/** A revision hash. */
const hash = (n) => String(n).padStart(32, '0');
/** A document of two revisions, as a replicator sends it. */
const revision = (id, n) => ({ _id: id, _rev: `2-${hash(n + 1)}`, _revisions: { start: 2, ids: [hash(n + 1), hash(n)] }, text: 'x'.repeat(400) });

/** What one connection sends, again and again: `n` counts its requests. Returns how many things each request is. */
const WORK = {
  put: (n, id) => ['PUT', `/bench/d${id}-${n}`, BODY, 1],
  putEach: (n, id) => ['PUT', `/bench${id % 32}/d${id}-${n}`, BODY, 1],
  bulk: (n, id) => ['POST', '/bench/_bulk_docs', JSON.stringify({ docs: Array.from({ length: 500 }, (_, m) => ({ _id: `b${id}-${n}-${m}`, text: 'x'.repeat(400) })) }), 500],
  get: (n, id) => ['GET', `/read/r${(n * 31 + id) % 20000}`, undefined, 1],
  changes: () => ['GET', '/read/_changes?limit=20000', undefined, 20000],
  bulkGet: (n, id) => ['POST', '/read/_bulk_get', JSON.stringify({ docs: Array.from({ length: 500 }, (_, m) => ({ id: `r${(n * 500 + m + id) % 20000}` })) }), 500],
  allDocs: () => ['GET', '/read/_all_docs?include_docs=true&limit=1000', undefined, 1000],
  find: (n, id) => ['POST', '/read/_find', JSON.stringify({ selector: { n: { $gt: 10 }, text: { $regex: 'x$' } }, limit: 50 + (id % 2) }), 50],
  file: (n, id) => ['PUT', `/bench/f${id}-${n}/file`, 'x'.repeat(100_000), 1],
  edits: (n, id) => ['POST', '/bench/_bulk_docs', JSON.stringify({ new_edits: false, docs: Array.from({ length: 100 }, (_, m) => revision(`e${id}-${m}`, n)) }), 100],
  diff: (n, id) => ['POST', '/bench/_revs_diff', JSON.stringify(Object.fromEntries(Array.from({ length: 100 }, (_, m) => [`e${id}-${m}`, [`1-${hash(n)}`]]))), 100],
  longpoll: (n, id) => (id % 8 === 0 ? ['PUT', `/bench0/w${id}-${n}`, BODY, 1] : ['GET', '/bench0/_changes?feed=longpoll&since=now&include_docs=true&timeout=1000', undefined, 1]),
  view: (n, id) => ['GET', `/read/_design/d/_view/n?startkey=${((n + id) * 97) % 19000}&limit=500`, undefined, 500],
};

if (!isMainThread) {
  const { ports, kind, connections, first, seconds } = workerData;
  const agent = new http.Agent({ keepAlive: true, maxSockets: connections });
  let done = 0;
  const end = Date.now() + seconds * 1000;
  const one = async (at) => {
    for (let n = 0; Date.now() < end; n++) {
      const [method, path, body, count] = WORK[kind](n + workerData.run * 1_000_000, first + at);
      const { status, text } = await ask(agent, ports[(first + at) % ports.length], method, path, body);
      if (status >= 300) throw new Error(`${method} ${path}: ${status} ${text}`);
      done += count;
    }
  };
  await Promise.all(Array.from({ length: connections }, (_, at) => one(at)));
  agent.destroy();
  parentPort.postMessage(done);
}

let runs = 0;
/** Things a second. */
export async function load(nodes, kind, connections, seconds = SECONDS) {
  const threads = Math.min(2, connections);
  runs += 1;
  const counts = Array.from({ length: threads }, (_, at) => new Promise((resolve, reject) => {
    const own = Math.ceil(connections / threads);
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { ports: nodes.map(({ port }) => port), kind, connections: own, first: at * own, seconds, run: runs } });
    worker.on('message', resolve).on('error', reject);
  }));
  return (await Promise.all(counts)).reduce((sum, count) => sum + count) / seconds;
}

/** Makes the databases that the loads use. */
export async function fill(server) {
  for (const name of ['bench', 'read', ...Array.from({ length: 32 }, (_, n) => `bench${n}`)]) await server.ask('PUT', `/${name}`);
  for (let n = 0; n < 20000; n += 1000) {
    const docs = Array.from({ length: 1000 }, (_, m) => ({ _id: `r${n + m}`, n: n + m, text: 'x'.repeat(400) }));
    await server.ask('POST', '/read/_bulk_docs', { docs });
  }
  await server.ask('PUT', '/read/_design/d', { views: { n: { map: 'function (doc) { emit(doc.n, null); }' } } });
}
