// 10,000 continuous replications between local databases of one settee, idle: the resident memory that they take, beside a
// server that was sent the same documents and checkpoints by a client. For each engine:
//
//   SETTEE_BIN=target/release/settee node benches/idle-jobs.mjs > table.md
//
// JOBS: how many (10000; a square number, of which each root is a source with as many targets).

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '../protocol-tests/harness/server.js';

const SIDE = Math.sqrt(Number(process.env.JOBS ?? 10000));
const SIDES = [...Array(SIDE).keys()];
/** After this the allocator has given back what it gives back. */
const REST = 35_000;
const authorization = `Basic ${btoa('admin:bench')}`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Server {
  static async start(engine) {
    const server = new Server();
    server.folder = mkdtempSync(join(tmpdir(), 'settee-bench-'));
    server.port = await freePort();
    const args = ['serve', '--data', join(server.folder, 'data'), '--bind', `127.0.0.1:${server.port}`, '--log', 'error', '--store', engine];
    const env = { ...process.env, COUCHDB_USER: 'admin', COUCHDB_PASSWORD: 'bench' };
    server.child = spawn(process.env.SETTEE_BIN, args, { stdio: ['ignore', 2, 2], env });
    for (let n = 0; !(await server.ask('GET', '/_up').catch(() => null)); n++) {
      if (n > 600) throw new Error('settee did not start');
      await pause(100);
    }
    return server;
  }

  async ask(method, path, body) {
    const headers = { authorization, 'content-type': 'application/json' };
    const answer = await fetch(`http://127.0.0.1:${this.port}${path}`, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return JSON.parse(text);
  }

  /** Resident memory in MB, now or at most. */
  memory(name = 'VmRSS') {
    const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8');
    return Math.round(Number(status.match(new RegExp(`${name}:\\s+(\\d+)`))[1]) / 1024);
  }

  async makeDatabases() {
    for (const n of SIDES) {
      await this.ask('PUT', `/s${n}`);
      await this.ask('PUT', `/t${n}`);
      await this.ask('PUT', `/s${n}/document`, {});
    }
  }

  /** Writes a document for each pair, as a job's document if the database is `_replicator`. */
  async writeDocuments(database) {
    for (const s of SIDES) {
      const docs = SIDES.map((t) => ({ _id: `${s}-${t}`, source: `s${s}`, target: `t${t}`, continuous: true }));
      await this.ask('POST', `/${database}/_bulk_docs`, { docs });
    }
  }

  stop() {
    this.child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function withJobs(engine) {
  const server = await Server.start(engine);
  const fresh = server.memory();
  await server.makeDatabases();
  await server.writeDocuments('_replicator');
  while ((await server.ask('GET', '/_node/_local/_stats/couch_replicator/jobs/asleep')).value < SIDE * SIDE) await pause(1000);
  await pause(REST);
  const numbers = { fresh, idle: server.memory(), peak: server.memory('VmHWM') };
  server.stop();
  return numbers;
}

/** A checkpoint as a replicator writes it. */
const checkpoint = () => {
  const [session_id, recorded_seq] = ['0'.repeat(32), '1-g1AAAABXeJzLYWBgYMpgTmHgz8tPSTV0MDQy1zMAQsMckEQiQ1L9____szKYE5lygQLsyWnGyUbG'];
  const [start_time, end_time] = Array(2).fill('Sun, 29 Nov 2026 15:00:00 GMT');
  const counts = { missing_checked: 1, missing_found: 1, docs_read: 1, docs_written: 1, doc_write_failures: 0 };
  const history = [{ session_id, start_time, end_time, start_last_seq: 0, end_last_seq: recorded_seq, recorded_seq, ...counts }];
  return { session_id, source_last_seq: recorded_seq, replication_id_version: 4, history };
};

async function withoutJobs(engine) {
  const server = await Server.start(engine);
  await server.makeDatabases();
  await server.writeDocuments('s0');
  const write = async (from) => {
    for (const s of SIDES.filter((n) => n % 16 === from)) {
      for (const t of SIDES) {
        const id = `${s}-${t}`.padStart(32, '0');
        for (const database of [`s${s}`, `t${t}`]) await server.ask('PUT', `/${database}/_local/${id}`, checkpoint());
      }
    }
  };
  await Promise.all([...Array(16).keys()].map(write));
  await pause(REST);
  const memory = server.memory();
  server.stop();
  return memory;
}

console.log(`| engine | fresh server | without jobs | ${SIDE * SIDE} idle jobs | the jobs | peak during the first passes |`);
console.log('|---|---:|---:|---:|---:|---:|');
for (const engine of ['sled', 'redb']) {
  const without = await withoutJobs(engine);
  const { fresh, idle, peak } = await withJobs(engine);
  console.log(`| ${engine} | ${fresh} | ${without} | ${idle} | ${idle - without} | ${peak} |`);
}
