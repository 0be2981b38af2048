// Starts a settee for a test, on a free port and with a temporary data folder, and stops it by its process
// id.
//
// `SETTEE_BIN` names the binary (default: the newer of target/debug and target/release). With `COUCHDB_URL`
// (http://admin:password@host:port), the tests run against an existing server, for example Apache CouchDB,
// and tests that stop or kill the server are skipped. With `SETTEE_TEST_STORE` (the address of a PostgreSQL:
// `postgres.sh` makes one) each server keeps its data there, in a schema of its own.

import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statSync, openSync, closeSync, readFileSync, writeFileSync, existsSync } from 'node:fs';
import { randomBytes, randomInt } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join, dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import net from 'node:net';
import { after } from 'node:test';
import { request } from './http.js';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '..', '..');

export const external = process.env.COUCHDB_URL ? new URL(process.env.COUCHDB_URL) : null;

export const ADMIN = external ? decodeURIComponent(external.username) : 'admin';
export const PASSWORD = external ? decodeURIComponent(external.password) : 'pass word:1';

/** Why a test of what is in a data folder is skipped if the data is in a PostgreSQL; else false. */
export const noFolder = process.env.SETTEE_TEST_STORE ? 'the data is in a PostgreSQL' : false;

/** The binary under test. */
export function binary() {
  if (process.env.SETTEE_BIN) return process.env.SETTEE_BIN;
  const target = process.env.CARGO_TARGET_DIR || join(root, 'target');
  const built = ['debug', 'release'].map((profile) => join(target, profile, 'settee')).filter(existsSync);
  if (built.length === 0) throw new Error('no settee binary: run `cargo build`, or set SETTEE_BIN');
  return built.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
}

/** The first port of the range from which the system gives ports to connections, and to servers that name none. */
function firstEphemeralPort() {
  try {
    return Number(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').split(/\s+/)[0]);
  } catch {
    return 32_768;
  }
}

/** Resolves to whether nothing listens on a port. */
function isFree(port) {
  return new Promise((resolve) => {
    const probe = net.createServer();
    probe.on('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}

/** A folder with a file for each port that a test has taken. */
const ports = join(tmpdir(), `settee-test-ports-${process.getuid()}`);
const taken = [];

/** Takes a port until the end of this process. Returns whether no other test has it. */
function take(port) {
  mkdirSync(ports, { recursive: true });
  try {
    writeFileSync(join(ports, String(port)), '', { flag: 'wx' });
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
  taken.push(port);
  return true;
}

/**
 * Resolves to a port on which nothing listens at the moment, and that no other test gets. It is below that range, so that no
 * other program gets it before the test listens there, or while its server restarts.
 */
export async function freePort() {
  const [first, end] = [10_000, Math.max(firstEphemeralPort(), 12_000)];
  for (;;) {
    const port = randomInt(first, end);
    if (take(port) && (await isFree(port))) return port;
  }
}

/** Polls `condition` until it returns a truthy value, and resolves to that value; throws after `seconds`. */
export async function until(what, condition, seconds = 30) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${seconds} s in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The arguments that put a server's data into the PostgreSQL under test. */
function storeArguments(schema) {
  const address = process.env.SETTEE_TEST_STORE;
  if (!address) return [];
  return ['--store', `${address}${address.includes('?') ? '&' : '?'}pool_size=6&keep_unused=0&schema=${schema}`];
}

// Servers and clients that a test has not stopped keep the process of its file alive. It ends soon after its tests, and fails.
if (process.env.NODE_TEST_CONTEXT) after(() => setTimeout(() => process.exit(1), 10_000).unref());

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  for (const port of taken) rmSync(join(ports, String(port)), { force: true });
});

export class Server {
  /** `schema`: that of another server, whose data it then shares. */
  constructor({ env = {}, args = [], schema } = {}) {
    this.env = env;
    this.args = args;
    this.folder = null;
    this.port = null;
    this.child = null;
    this.schema = schema ?? `t_${randomBytes(8).toString('hex')}`;
  }

  get base() {
    return external ? `${external.protocol}//${external.host}` : `http://127.0.0.1:${this.port}`;
  }

  /** The URL for PouchDB, with the admin's name and password. */
  get address() {
    const at = new URL(this.base);
    at.username = ADMIN;
    at.password = encodeURIComponent(PASSWORD);
    return at.toString().replace(/\/$/, '');
  }

  get pid() {
    return this.child?.pid;
  }

  /** Resident memory in bytes. */
  rss() {
    const line = readFileSync(`/proc/${this.pid}/status`, 'utf8').match(/VmRSS:\s+(\d+) kB/);
    return Number(line[1]) * 1024;
  }

  log() {
    return this.folder ? readFileSync(join(this.folder, 'log'), 'utf8') : '';
  }

  /** Waits for a line in the log, which a thread of the server writes, and resolves to the log. */
  logged(pattern) {
    return until(`${pattern} in the log`, () => pattern.test(this.log()) && this.log());
  }

  /** Starts the binary and waits until `/_up` answers 200. */
  async start() {
    if (external) return this;
    this.folder ??= mkdtempSync(join(tmpdir(), 'settee-test-'));
    this.port ??= await freePort();
    const out = openSync(join(this.folder, 'log'), 'a');
    const store = this.args.includes('--store') ? [] : storeArguments(this.schema);
    const child = spawn(
      binary(),
      ['serve', '--data', join(this.folder, 'data'), '--bind', `127.0.0.1:${this.port}`, ...store, ...this.args],
      {
        cwd: this.folder,
        stdio: ['ignore', out, out],
        env: { ...process.env, COUCHDB_USER: ADMIN, COUCHDB_PASSWORD: PASSWORD, ...this.env },
      },
    );
    closeSync(out);
    running.add(child);
    this.child = child;
    this.exited = new Promise((resolve) => {
      child.on('error', (error) => resolve({ error }));
      child.on('exit', (code, signal) => {
        running.delete(child);
        resolve({ code, signal });
      });
    });
    let gone = null;
    this.exited.then((how) => (gone = how));
    await until(
      'GET /_up to answer 200',
      async () => {
        if (gone) throw new Error(`settee ended at its start (${JSON.stringify(gone)}):\n${this.log()}`);
        const answer = await request(this.base, { path: '/_up', fresh: true }).catch(() => null);
        return answer?.status === 200;
      },
      180,
    );
    return this;
  }

  /** Stops the server with SIGTERM. Throws if it does not exit with 0, or if its log contains a panic. */
  async stop() {
    if (external || !this.child) return;
    const child = this.child;
    this.child = null;
    child.kill('SIGTERM');
    const limit = setTimeout(() => child.kill('SIGKILL'), 30_000);
    const how = await this.exited;
    clearTimeout(limit);
    const log = this.log();
    this.remove();
    if (how.code !== 0) {
      throw new Error(`settee did not exit with 0 on SIGTERM: ${JSON.stringify(how)}\n${log.slice(-4000)}`);
    }
    const panic = log.match(/.*panicked at.*\n?.*/);
    if (panic) throw new Error(`settee panicked: ${panic[0]}`);
  }

  /** Kills the server with SIGKILL. Keeps the data folder. */
  async kill() {
    const child = this.child;
    this.child = null;
    child.kill('SIGKILL');
    await this.exited;
  }

  /** Stops the server with `signal` if it runs, and starts a new process on the same folder and port. */
  async restart(signal = 'SIGKILL') {
    if (this.child) {
      const child = this.child;
      this.child = null;
      child.kill(signal);
      await this.exited;
    }
    return this.start();
  }

  remove() {
    if (this.folder && !process.env.KEEP_DATA) rmSync(this.folder, { recursive: true, force: true });
    this.folder = null;
  }
}
