// The servers of an acceptance run: settee and Apache CouchDB behind one class, and what a run asks of them.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, openSync, closeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ADMIN, PASSWORD, Server, freePort, until } from '../harness/server.js';
import { request } from '../harness/http.js';

/** The user and system time of a process in seconds. */
function cpuSeconds(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** A server that replicates, is read from or is written to. */
class Peer {
  constructor(name, user, password) {
    this.name = name;
    this.user = user;
    this.password = password;
    this.headers = { Authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}` };
  }

  /** Sends a request. Throws if the status is not in `allowed` (default: any status below 300). */
  async call(method, path, body, { allowed = [], headers = {}, fresh = false } = {}) {
    const answer = await request(this.base, { method, path, body, headers: { ...this.headers, ...headers }, fresh });
    if (answer.status >= 300 && !allowed.includes(answer.status)) {
      throw new Error(`${this.name}: ${method} ${path.slice(0, 200)}: ${answer.status} ${answer.text.slice(0, 300)}`);
    }
    return answer;
  }

  async json(method, path, body, options) {
    return (await this.call(method, path, body, options)).json;
  }

  /** An endpoint of a replication document; `local` is the bare name, which only settee accepts. */
  endpoint(db, { local = false } = {}) {
    if (local) return db;
    return { url: `${this.base}/${db}`, auth: { basic: { username: this.user, password: this.password } } };
  }

  async create(db) {
    await this.call('DELETE', `/${db}`, undefined, { allowed: [404] });
    await this.call('PUT', `/${db}`);
  }

  /** `{count, deleted, seq}`; the number of a sequence is the part before its first hyphen. */
  async info(db) {
    const info = await this.json('GET', `/${db}`, undefined, { fresh: true });
    return { count: info.doc_count, deleted: info.doc_del_count, seq: number(info.update_seq) };
  }

  cpu() {
    return this.pid ? cpuSeconds(this.pid) : NaN;
  }

  /** Resident memory at its peak, in MiB. */
  peak() {
    if (!this.pid) return NaN;
    return Number(readFileSync(`/proc/${this.pid}/status`, 'utf8').match(/VmHWM:\s+(\d+) kB/)[1]) / 1024;
  }
}

/** The leading number of an update sequence. */
export const number = (seq) => Number(String(seq).split('-')[0]);

export class Settee extends Peer {
  constructor(name, args = []) {
    super(name, ADMIN, PASSWORD);
    this.server = new Server({ args });
    this.restartable = true;
  }

  get base() {
    return this.server.base;
  }

  get pid() {
    return this.server.pid;
  }

  async start() {
    await this.server.start();
    return this;
  }

  kill() {
    return this.server.kill();
  }

  stop() {
    return this.server.stop();
  }

  log() {
    return this.server.log();
  }
}

/**
 * An Apache CouchDB: a running one (`url`), or one that `program` becomes when it is called with a data folder
 * and a port.
 */
export class CouchDB extends Peer {
  constructor(name, { url, program }) {
    const at = url ? new URL(url) : null;
    super(name, at ? decodeURIComponent(at.username) : 'bench', at ? decodeURIComponent(at.password) : 'bench');
    this.base = at ? `${at.protocol}//${at.host}` : null;
    this.program = program;
    this.restartable = !at;
    this.pid = null;
  }

  async start() {
    if (!this.program) return this;
    this.folder ??= mkdtempSync(join(tmpdir(), 'couchdb-peer-'));
    this.port ??= await freePort();
    this.base = `http://127.0.0.1:${this.port}`;
    const out = openSync(join(this.folder, 'log'), 'a');
    this.child = spawn(this.program, [this.folder, String(this.port)], { stdio: ['ignore', out, out], detached: true });
    closeSync(out);
    this.pid = this.child.pid;
    this.exited = new Promise((resolve) => this.child.on('exit', resolve));
    process.once('exit', () => this.child?.kill('SIGKILL'));
    await until('CouchDB to start', async () => {
      const up = await request(this.base, { path: '/_up', fresh: true }).catch(() => null);
      return up?.status === 200;
    }, 120);
    for (const db of ['_users', '_replicator']) await this.call('PUT', `/${db}`, undefined, { allowed: [412] });
    return this;
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.exited;
  }

  async stop() {
    if (!this.program || !this.child) return;
    this.child.kill('SIGTERM');
    const limit = setTimeout(() => this.child.kill('SIGKILL'), 10_000);
    await this.exited;
    clearTimeout(limit);
    this.child = null;
    if (!process.env.KEEP_DATA) rmSync(this.folder, { recursive: true, force: true });
  }
}


/**
 * Replicates once and returns the answer, `{ok, history, ...}`. Throws with the server's error if it fails.
 * `endpoints` is `{source: [peer, db], target: [peer, db], local}`; with `local`, a database of the replicating
 * server is given by its bare name.
 */
export function replicate(server, { source, target, local = true }, options = {}) {
  const bare = (peer) => local && peer === server && server instanceof Settee;
  const body = {
    source: source[0].endpoint(source[1], { local: bare(source[0]) }),
    target: target[0].endpoint(target[1], { local: bare(target[0]) }),
    ...options,
  };
  return server.json('POST', '/_replicate', body, { fresh: true });
}

/** The counters of the last session of an answer alone: a history adds up over the sessions, as in CouchDB. */
export function lastSession({ history: [last, before] }) {
  const counters = Object.entries(last).filter(([, value]) => typeof value === 'number');
  return { ...last, ...Object.fromEntries(counters.map(([name, value]) => [name, value - (before?.[name] ?? 0)])) };
}
