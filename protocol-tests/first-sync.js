// How long the first sync of stock PouchDB clients takes over a slow connection. Run by hand: docs/testing.md.
//
//   node first-sync.js                                    settee with what PouchDB asked for, and with more rows
//   BESIDE=http://admin:password@127.0.0.1:5984 node first-sync.js            beside it, an Apache CouchDB
//   ONLY=1000 node first-sync.js                         only with more rows; 0: only what PouchDB asked for; beside: neither
//   BROWSER=/usr/bin/chromium node first-sync.js          PouchDB in the browser, with IndexedDB; requires playwright-core
//
// A TCP proxy delays every byte in both directions, and the first bytes of a connection by one more round trip (its
// handshake). Each device is a process (or a page in a browser context) of its own, all start at once, and the time counts until
// the last one has every document.

import http from 'node:http';
import net from 'node:net';
import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { Api } from './harness/rows.js';
import { request } from './harness/http.js';

const require = createRequire(import.meta.url);
const number = (name, value) => Number(process.env[name] ?? value);
const DOCS = number('DOCS', 20_000);
const DEVICES = number('DEVICES', 10);
/** Milliseconds each way. */
const DELAY = number('DELAY', 50);
const VERSIONS = (process.env.VERSIONS ?? '7,8,9').split(',');
const { BROWSER } = process.env;

/** Delays the bytes between its clients and a port, and counts those that the clients receive. */
class Delay {
  constructor(port, host = '127.0.0.1') {
    this.received = 0;
    this.listener = net.createServer({ noDelay: true }, (client) => {
      const server = net.connect({ port, host, noDelay: true });
      const shaken = Date.now() + 2 * DELAY;
      // One line in each direction: what came first leaves first, also if a timer is late.
      const direction = () => {
        let line = Promise.resolve();
        return (work) => {
          const at = Math.max(Date.now(), shaken) + DELAY;
          const wait = () => new Promise((resolve) => setTimeout(resolve, Math.max(0, at - Date.now())));
          line = line.then(() => (at > Date.now() ? wait() : undefined)).then(work);
        };
      };
      const [up, down] = [direction(), direction()];
      client.on('data', (bytes) => up(() => server.write(bytes))).on('error', () => server.destroy()).on('close', () => up(() => server.destroy()));
      server.on('data', (bytes) => {
        this.received += bytes.length;
        down(() => client.write(bytes));
      });
      server.on('error', () => client.destroy()).on('close', () => down(() => client.destroy()));
    });
  }

  async start() {
    await new Promise((resolve) => this.listener.listen(0, '127.0.0.1', resolve));
    this.port = this.listener.address().port;
    return this;
  }

  stop() {
    return new Promise((resolve) => this.listener.close(resolve));
  }
}

/** A device in a process of its own: waits for `go`, pulls, and reports. */
async function device(major, url) {
  const PouchDB = require(`pouchdb-${major}`);
  PouchDB.plugin(require(`pouchdb-adapter-memory-${major}`));
  let requests = 0;
  const remote = new PouchDB(url, {
    skip_setup: true,
    fetch: (at, options) => {
      requests += 1;
      return PouchDB.fetch(at, options);
    },
  });
  process.send({ ready: true });
  await new Promise((resolve) => process.once('message', resolve));
  const local = new PouchDB('device', { adapter: 'memory' });
  const began = Date.now();
  const { docs_written: docs } = await local.replicate.from(remote);
  process.send({ seconds: (Date.now() - began) / 1000, requests, docs });
  process.disconnect();
}

const message = (child) =>
  new Promise((resolve, reject) => {
    child.once('message', resolve);
    child.once('exit', (code) => reject(new Error(`a device ended with ${code}`)));
  });

async function inProcesses(major, url) {
  const children = Array.from({ length: DEVICES }, () => fork(fileURLToPath(import.meta.url), ['device', major, url]));
  await Promise.all(children.map(message));
  const pulled = children.map(message);
  for (const child of children) child.send('go');
  return Promise.all(pulled);
}

/** As `inProcesses`, for pages of a browser, each in a context of its own. */
async function inBrowser(major, url) {
  const { chromium } = await import(process.env.PLAYWRIGHT ?? 'playwright-core');
  const script = readFileSync(require.resolve(`pouchdb-${major}/dist/pouchdb.min.js`));
  const pages = http.createServer((asked, answer) => {
    const isScript = asked.url === '/pouchdb.js';
    answer.setHeader('Content-Type', isScript ? 'text/javascript' : 'text/html');
    answer.end(isScript ? script : '<!doctype html><script src="/pouchdb.js"></script>');
  });
  await new Promise((resolve) => pages.listen(0, '127.0.0.1', resolve));
  const browser = await chromium.launch({ executablePath: BROWSER, args: ['--no-sandbox'] });
  try {
    const opened = await Promise.all(
      Array.from({ length: DEVICES }, async () => {
        const page = await (await browser.newContext()).newPage();
        await page.goto(`http://127.0.0.1:${pages.address().port}/`);
        return page;
      }),
    );
    return await Promise.all(
      opened.map((page) =>
        page.evaluate(async (at) => {
          const { PouchDB } = globalThis;
          let requests = 0;
          const fetch = (to, options) => {
            requests += 1;
            return PouchDB.fetch(to, options);
          };
          const local = new PouchDB('device');
          const began = Date.now();
          const { docs_written: docs } = await local.replicate.from(new PouchDB(at, { skip_setup: true, fetch }));
          return { seconds: (Date.now() - began) / 1000, requests, docs, adapter: local.adapter };
        }, url),
      ),
    );
  } finally {
    await browser.close();
    pages.close();
  }
}

/** Fills a database, and lets devices of each version pull it. */
async function measure(name, server, rows) {
  const headers = { Authorization: `Basic ${Buffer.from(`${server.username}:${decodeURIComponent(server.password)}`).toString('base64')}` };
  const ask = async (method, path, body) => {
    const answer = await request(server.href, { method, path, headers, body });
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.text}`);
  };
  const db = `first_sync_${process.pid}_${rows.length}`;
  await ask('PUT', `/${db}`);
  for (let at = 0; at < DOCS; at += 1000) {
    const docs = Array.from({ length: Math.min(1000, DOCS - at) }, (_, n) => ({
      _id: `note:${String(at + n).padStart(6, '0')}`,
      type: 'note',
      title: `Note number ${at + n}`,
      text: `${Math.random().toString(36)} some words of a note that somebody wrote. `.repeat(4),
      tags: ['home', 'work'],
    }));
    await ask('POST', `/${db}/_bulk_docs`, { docs });
  }
  const proxy = await new Delay(Number(server.port || 80), server.hostname).start();
  for (const major of VERSIONS) {
    const at = new URL(`http://127.0.0.1:${proxy.port}/${db}`);
    Object.assign(at, { username: server.username, password: server.password });
    const before = proxy.received;
    const pulled = await (BROWSER ? inBrowser : inProcesses)(major, at.href);
    if (pulled.some(({ docs }) => docs !== DOCS)) throw new Error(`a device has ${JSON.stringify(pulled)}`);
    const seconds = pulled.map((one) => one.seconds).sort((a, b) => a - b);
    const { version } = require(`pouchdb-${major}/package.json`);
    const cells = [`PouchDB ${version}${pulled[0].adapter ? `, ${pulled[0].adapter}` : ''}`, name, seconds[seconds.length >> 1], seconds.at(-1), pulled[0].requests, ((proxy.received - before) / DEVICES / 1e6).toFixed(1)];
    console.log(`| ${cells.join(' | ')} |`);
    rows.push(cells);
  }
  await ask('DELETE', `/${db}`);
  await proxy.stop();
}

async function main() {
  console.log(`${DOCS} documents, ${DEVICES} devices at once, ${DELAY} ms each way\n`);
  console.log('| client | server | seconds, median | seconds, slowest | requests each | MB each |\n|---|---|---:|---:|---:|---:|');
  const rows = [];
  for (const [name, setting] of [['settee, 100 rows', '0'], ['settee', '1000']]) {
    if (process.env.ONLY && process.env.ONLY !== setting) continue;
    const api = new Api({ args: ['--set', `settee/first_sync_rows=${setting}`] });
    await api.start();
    await measure(name, new URL(api.server.address), rows);
    await api.stop();
  }
  if (process.env.BESIDE) await measure('CouchDB', new URL(process.env.BESIDE), rows);
}

if (process.argv[2] === 'device') await device(process.argv[3], process.argv[4]);
else await main();
