// settee on a PostgreSQL beside the embedded engine, and one, two and three nodes on it, in one run:
//
//   SETTEE_BIN=target/release/settee protocol-tests/postgres.sh node benches/postgres.mjs > table.md
//
// BENCH_SECONDS: duration of each row (5). Requests come from worker threads on the same machine, which take more of its
// time than the server: read the ratios and the CPU time of each operation, not the figures. benches/postgres.rs compares
// with plain SQL, with a client that takes less.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import http from 'node:http';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { freePort } from '../protocol-tests/harness/server.js';

const SECONDS = Number(process.env.BENCH_SECONDS ?? 5);
const BODY = JSON.stringify({ text: 'x'.repeat(400), n: 1 });
const auth = { Authorization: `Basic ${btoa('admin:bench')}`, 'Content-Type': 'application/json' };

const ask = (agent, port, method, path, body) =>
  new Promise((resolve, reject) => {
    const call = http.request({ agent, host: '127.0.0.1', port, method, path, headers: { ...auth, ...(body ? { 'Content-Length': Buffer.byteLength(body) } : {}) } }, (answer) => {
      let length = 0;
      const parts = [];
      answer.on('data', (part) => ((length += part.length), length < 65536 && parts.push(part)));
      answer.on('end', () => resolve({ status: answer.statusCode, text: Buffer.concat(parts).toString() }));
      answer.on('error', reject);
    });
    call.on('error', reject);
    call.end(body);
  });

/** What one connection sends, again and again: `n` counts its requests. Returns how many things each request is. */
const WORK = {
  put: (n, id) => ['PUT', `/bench/d${id}-${n}`, BODY, 1],
  putEach: (n, id) => ['PUT', `/bench${id % 32}/d${id}-${n}`, BODY, 1],
  bulk: (n, id) => ['POST', '/bench/_bulk_docs', JSON.stringify({ docs: Array.from({ length: 500 }, (_, m) => ({ _id: `b${id}-${n}-${m}`, text: 'x'.repeat(400) })) }), 500],
  get: (n, id) => ['GET', `/read/r${(n * 31 + id) % 20000}`, undefined, 1],
  changes: () => ['GET', '/read/_changes?limit=20000', undefined, 20000],
  bulkGet: (n, id) => ['POST', '/read/_bulk_get', JSON.stringify({ docs: Array.from({ length: 500 }, (_, m) => ({ id: `r${(n * 500 + m + id) % 20000}` })) }), 500],
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

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});
let runs = 0;
/** Things a second. */
async function load(nodes, kind, connections, seconds = SECONDS) {
  const threads = Math.min(2, connections);
  runs += 1;
  const counts = Array.from({ length: threads }, (_, at) => new Promise((resolve, reject) => {
    const own = Math.ceil(connections / threads);
    const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { ports: nodes.map(({ port }) => port), kind, connections: own, first: at * own, seconds, run: runs } });
    worker.on('message', resolve).on('error', reject);
  }));
  return (await Promise.all(counts)).reduce((sum, count) => sum + count) / seconds;
}

/** CPU seconds of a process and its children so far. */
function cpu(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ');
  return (Number(fields[11]) + Number(fields[12]) + Number(fields[13]) + Number(fields[14])) / 100;
}

/** CPU seconds of the PostgreSQL under test so far. */
function cpuOfDatabase() {
  const folder = decodeURIComponent(new URL(process.env.SETTEE_TEST_STORE).hostname);
  const main = Number(readFileSync(join(folder, 'data', 'postmaster.pid'), 'utf8').split('\n')[0]);
  let all = cpu(main);
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const parent = Number(readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')[1]);
      if (parent === main) all += cpu(pid);
    } catch {
      // It has ended, and is in the count of its parent.
    }
  }
  return all;
}

async function node(args) {
  const folder = mkdtempSync(join(tmpdir(), 'settee-bench-'));
  const port = await freePort();
  const child = spawn(process.env.SETTEE_BIN, ['serve', '--data', join(folder, 'data'), '--bind', `127.0.0.1:${port}`, '--log', 'error', ...args], { stdio: ['ignore', 2, 2], env: { ...process.env, COUCHDB_USER: 'admin', COUCHDB_PASSWORD: 'bench' } });
  running.add(child);
  const agent = new http.Agent({ keepAlive: true });
  for (let n = 0; ; n++) {
    const up = await ask(agent, port, 'GET', '/_up').catch(() => null);
    if (up?.status === 200) break;
    if (n > 600) throw new Error('settee did not start');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const stop = async () => {
    child.kill('SIGTERM');
    await new Promise((resolve) => child.on('exit', resolve));
    agent.destroy();
    rmSync(folder, { recursive: true, force: true });
  };
  return { port, child, agent, stop, ok: async (...request) => {
    const { status, text } = await ask(agent, port, ...request);
    if (status >= 300 && status !== 412) throw new Error(`${request[1]}: ${status} ${text}`);
  } };
}

async function fill(one) {
  for (const name of ['bench', 'read', ...Array.from({ length: 32 }, (_, n) => `bench${n}`)]) await one.ok('PUT', `/${name}`);
  for (let n = 0; n < 20000; n += 1000) {
    const docs = Array.from({ length: 1000 }, (_, m) => ({ _id: `r${n + m}`, n: n + m, text: 'x'.repeat(400) }));
    await one.ok('POST', '/read/_bulk_docs', JSON.stringify({ docs }));
  }
  await one.ok('PUT', '/read/_design/d', JSON.stringify({ views: { n: { map: 'function (doc) { emit(doc.n, null); }' } } }));
}

async function main() {
  const row = (...cells) => console.log(`| ${cells.join(' | ')} |`);
  const shown = (number) => Math.round(number).toLocaleString('en').replaceAll(',', ' ');
  const embedded = await node(['--store', 'sled']);
  const shared = [await node(['--store', process.env.SETTEE_TEST_STORE])];
  for (const one of [embedded, shared[0]]) await fill(one);
  for (const one of [embedded, shared[0]]) await load([one], 'view', 1, 1);
  row('what', 'unit', 'embedded', 'PostgreSQL', 'PostgreSQL ÷ embedded', 'CPU µs each: embedded', 'settee on PostgreSQL', 'PostgreSQL itself');
  row('---', '---', '---:', '---:', '---:', '---:', '---:', '---:');
  for (const [title, unit, kind, connections] of [
    ['PUT, one database, 1 connection', 'requests/s', 'put', 1],
    ['PUT, one database, 32 connections', 'requests/s', 'put', 32],
    ['PUT, 32 databases, 32 connections', 'requests/s', 'putEach', 32],
    ['_bulk_docs, 500 each, 4 connections', 'documents/s', 'bulk', 4],
    ['GET, 32 connections', 'requests/s', 'get', 32],
    ['_changes', 'rows/s', 'changes', 1],
    ['_bulk_get, 500 each, 4 connections', 'documents/s', 'bulkGet', 4],
    ['view, 500 rows, 4 connections', 'rows/s', 'view', 4],
  ]) {
    const found = [];
    for (const one of [embedded, shared[0]]) {
      const before = [cpu(one.child.pid), cpuOfDatabase()];
      const rate = await load([one], kind, connections);
      const after = [cpu(one.child.pid), cpuOfDatabase()];
      found.push([rate, ...after.map((seconds, at) => ((seconds - before[at]) * 1e6) / (rate * SECONDS))]);
    }
    row(title, unit, shown(found[0][0]), shown(found[1][0]), (found[1][0] / found[0][0]).toFixed(2), found[0][1].toFixed(1), found[1][1].toFixed(1), found[1][2].toFixed(1));
  }
  await embedded.stop();
  console.log();
  row('nodes', 'GET requests/s', 'CPU µs each: nodes', 'PostgreSQL', 'PUT requests/s, 32 databases', 'CPU µs each: nodes', 'PostgreSQL');
  row('---', '---:', '---:', '---:', '---:', '---:', '---:');
  const used = () => [shared.reduce((sum, { child }) => sum + cpu(child.pid), 0), cpuOfDatabase()];
  for (;;) {
    const cells = [];
    for (const kind of ['get', 'putEach']) {
      const before = used();
      const rate = await load(shared, kind, 32);
      cells.push(shown(rate), ...used().map((seconds, at) => shown(((seconds - before[at]) * 1e6) / (rate * SECONDS))));
    }
    row(shared.length, ...cells);
    if (shared.length === 3) break;
    shared.push(await node(['--store', process.env.SETTEE_TEST_STORE]));
  }
  for (const one of shared) await one.stop();
}

if (isMainThread) await main();
