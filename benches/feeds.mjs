// Waiting feeds of one database, spread over several nodes on one PostgreSQL: the memory of each node, and the time from a
// change on one node until the last feed of it and of the others has heard.
//
//   SETTEE_BIN=target/release/settee protocol-tests/postgres.sh node benches/feeds.mjs > table.md
//
// FEEDS: how many in all (10000; the limit of open files has to be above it). NODES: 3. ROUNDS: changes of each kind of feed (5).
// The clients run on the same machine, as sockets that only look for the end of an answer or for a line.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import net from 'node:net';
import { freePort } from '../protocol-tests/harness/server.js';

const [FEEDS, NODES, ROUNDS] = [['FEEDS', 10000], ['NODES', 3], ['ROUNDS', 5]].map(([name, usual]) => Number(process.env[name] ?? usual));
const authorization = `Basic ${btoa('admin:bench')}`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function ask(port, method, path, body) {
  const headers = { authorization, 'content-type': 'application/json' };
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method, headers, body });
  const text = await answer.text();
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return JSON.parse(text);
}

const running = new Set();
process.on('exit', () => {
  for (const { child, folder } of running) {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  }
});

async function start() {
  const folder = mkdtempSync(join(tmpdir(), 'settee-bench-'));
  const port = await freePort();
  const args = ['serve', '--data', join(folder, 'data'), '--bind', `127.0.0.1:${port}`, '--log', 'error', '--store', process.env.SETTEE_TEST_STORE];
  const child = spawn(process.env.SETTEE_BIN, args, { stdio: ['ignore', 2, 2], env: { ...process.env, COUCHDB_USER: 'admin', COUCHDB_PASSWORD: 'bench' } });
  const node = { child, folder, port };
  running.add(node);
  for (let n = 0; !(await ask(port, 'GET', '/_up').catch(() => null)); n++) {
    if (n > 600) throw new Error('settee did not start');
    await pause(100);
  }
  return node;
}

const memory = ({ child }) => Number(readFileSync(`/proc/${child.pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]);
const waiting = async ({ port }) => (await ask(port, 'GET', '/_node/_local/_stats/couchdb/httpd/clients_requesting_changes')).value;

/** A feed on a connection of its own. `heard` is called when it has told of a change. */
class Feed {
  constructor(kind, node, heard) {
    this.node = node;
    this.text = '';
    const done = kind === 'longpoll' ? /"last_seq":"[^"]+"/ : /"id":"([^"]+)"/;
    const path = `/waiting/_changes?feed=${kind}&since=now&timeout=3600000&heartbeat=3600000`;
    this.request = `GET ${path} HTTP/1.1\r\nHost: bench\r\nAuthorization: ${authorization}\r\n\r\n`;
    this.socket = net.connect(node.port, '127.0.0.1', () => this.socket.write(this.request));
    this.socket.on('data', (bytes) => {
      this.text += bytes.latin1Slice();
      if (!done.test(this.text)) return;
      this.text = '';
      heard(this);
    });
    this.socket.on('error', (error) => {
      throw error;
    });
  }

  again() {
    this.socket.write(this.request);
  }
}

/** Waits until there are so many feeds, and all of them wait. */
async function complete(nodes, wanted) {
  for (let was = -1; ;) {
    const now = sum(await Promise.all(nodes.map(waiting)));
    // The count is of requests that have begun; the last ones may still read.
    if (now === wanted && was === now) return pause(1000);
    was = now;
    await pause(200);
  }
}

async function stop(nodes) {
  for (const node of nodes) {
    node.child.kill('SIGTERM');
    await once(node.child, 'exit');
    running.delete(node);
    rmSync(node.folder, { recursive: true, force: true });
  }
}

const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);
const middle = (times) => [...times].sort((a, b) => a - b)[times.length >> 1];

/** A row of the table, with new nodes. */
async function measure(kind) {
  const nodes = [];
  for (let n = 0; n < NODES; n++) nodes.push(await start());
  await ask(nodes[0].port, 'PUT', '/waiting').catch(() => null);
  const feeds = [];
  let heard = () => {};
  const open = async (count) => {
    for (let n = 0; n < count; n++) {
      feeds.push(new Feed(kind, nodes[feeds.length % NODES], (feed) => heard(feed)));
      if (n % 500 === 499) await pause(20);
    }
    await complete(nodes, feeds.length);
    return nodes.map(memory);
  };
  // The first tenth warms the nodes up.
  const few = await open(FEEDS / 10);
  const all = await open(FEEDS - FEEDS / 10);
  const rounds = [];
  for (let round = 0; round < ROUNDS; round++) {
    const times = nodes.map(() => []);
    let left = FEEDS;
    const told = new Promise((resolve) => {
      heard = ({ node }) => {
        times[nodes.indexOf(node)].push(performance.now());
        if ((left -= 1) === 0) resolve();
      };
    });
    const writer = nodes[round % NODES];
    const begun = performance.now();
    await ask(writer.port, 'PUT', `/waiting/${kind}${round}`, '{}');
    await told;
    const since = (at) => times[at].map((time) => time - begun);
    const others = nodes.flatMap((node, at) => (node === writer ? [] : since(at)));
    rounds.push({ own: Math.max(...since(nodes.indexOf(writer))), first: Math.min(...others), half: middle(others), last: Math.max(...others) });
    if (kind === 'longpoll') for (const feed of feeds) feed.again();
    await complete(nodes, FEEDS);
  }
  const after = nodes.map(memory);
  for (const { socket } of feeds) socket.destroy();
  await stop(nodes);
  const mib = (of) => of.map((kib) => Math.round(kib / 1024)).join(', ');
  const each = (sum(all) - sum(few)) / (FEEDS * 0.9);
  const shown = (name) => `${Math.round(middle(rounds.map((one) => one[name])))} (${Math.round(Math.max(...rounds.map((one) => one[name])))})`;
  row(`${FEEDS} ${kind} feeds`, mib(few), mib(all), mib(after), each.toFixed(1), shown('own'), shown('first'), shown('half'), shown('last'));
}

const row = (...cells) => console.log(`| ${cells.join(' | ')} |`);
row(`${NODES} nodes, ${ROUNDS} changes; ms: median (most)`, 'MiB of each with a tenth', 'with all', 'after the changes', 'KiB a feed', "the writer's node: last, ms", 'others: first, ms', 'half, ms', 'last, ms');
row('---', '---:', '---:', '---:', '---:', '---:', '---:', '---:', '---:');
for (const kind of ['longpoll', 'continuous']) await measure(kind);
