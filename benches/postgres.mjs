// settee on a PostgreSQL beside the embedded engine, and one, two and three nodes on it, in one run:
//
//   SETTEE_BIN=target/release/settee protocol-tests/postgres.sh node benches/postgres.mjs > table.md
//
// BENCH_SECONDS: duration of each row (5). Requests come from worker threads on the same machine, which take more of its
// time than the server: read the ratios and the CPU time of each operation, not the figures. benches/postgres.rs compares
// with plain SQL, with a client that takes less.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { SECONDS, fill, load } from './load.mjs';
import { Server } from './server.mjs';

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

async function main() {
  const row = (...cells) => console.log(`| ${cells.join(' | ')} |`);
  const shown = (number) => Math.round(number).toLocaleString('en').replaceAll(',', ' ');
  const embedded = await Server.started('sled');
  const shared = [await Server.started(process.env.SETTEE_TEST_STORE)];
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
  embedded.remove();
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
    shared.push(await Server.started(process.env.SETTEE_TEST_STORE));
  }
  for (const one of shared) {
    await one.stop();
    one.remove();
  }
}

await main();
