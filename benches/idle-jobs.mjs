// 10,000 continuous replications between local databases of one settee, idle: the resident memory that they take, beside a
// server that was sent the same documents and checkpoints by a client. For each engine:
//
//   SETTEE_BIN=target/release/settee node benches/idle-jobs.mjs > table.md
//
// JOBS: how many (10000; a square number, of which each root is a source with as many targets).

import { readFileSync } from 'node:fs';
import { pause, Server } from './server.mjs';

const SIDE = Math.sqrt(Number(process.env.JOBS ?? 10000));
const SIDES = [...Array(SIDE).keys()];
/** After this the allocator has given back what it gives back. */
const REST = 35_000;

class Jobs extends Server {
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
}

async function withJobs(engine) {
  const server = new Jobs(engine);
  await server.start();
  const fresh = server.memory();
  await server.makeDatabases();
  await server.writeDocuments('_replicator');
  while ((await server.ask('GET', '/_node/_local/_stats/couch_replicator/jobs/asleep')).value < SIDE * SIDE) await pause(1000);
  await pause(REST);
  const numbers = { fresh, idle: server.memory(), peak: server.memory('VmHWM') };
  await server.stop('SIGKILL');
  server.remove();
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
  const server = new Jobs(engine);
  await server.start();
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
  await server.stop('SIGKILL');
  server.remove();
  return memory;
}

console.log(`| engine | fresh server | without jobs | ${SIDE * SIDE} idle jobs | the jobs | peak during the first passes |`);
console.log('|---|---:|---:|---:|---:|---:|');
for (const engine of ['sled', 'redb']) {
  const without = await withoutJobs(engine);
  const { fresh, idle, peak } = await withJobs(engine);
  console.log(`| ${engine} | ${fresh} | ${without} | ${idle} | ${idle - without} | ${peak} |`);
}
