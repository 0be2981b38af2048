// A PostgreSQL with standbys for a test, each in a temporary folder and reached through a TCP proxy, so that it can be
// killed, frozen and cut off. Debian's package `postgresql`, or the one in PATH.

import { spawn, execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { appendFileSync, existsSync, mkdtempSync, openSync, closeSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import net from 'node:net';
import { freePort, until } from './server.js';

const run = promisify(execFile);

/** The folder with PostgreSQL's programs, or null. */
export function binaries() {
  const debian = '/usr/lib/postgresql';
  const versions = existsSync(debian) ? readdirSync(debian).map(Number).sort((a, b) => b - a) : [];
  const folders = [...versions.map((version) => `${debian}/${version}/bin`), ...process.env.PATH.split(':')];
  return folders.find((folder) => existsSync(join(folder, 'initdb'))) ?? null;
}

/** The user who runs PostgreSQL, which refuses to be root; null: this one. */
function owner() {
  if (process.getuid() !== 0) return null;
  const users = readFileSync('/etc/passwd', 'utf8').split('\n').map((line) => line.split(':'));
  const [, , uid, gid] = users.find(([name]) => name === 'postgres') ?? users.find(([name]) => name === 'nobody');
  return { uid, gid };
}

/** The command that runs another one as that user. */
function own() {
  const user = owner();
  return user ? ['setpriv', `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups'] : [];
}

/** Gives a folder to that user. */
async function give(folder) {
  const user = owner();
  if (user) await run('chown', [user.uid, folder]);
}

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGQUIT');
});

/** A TCP proxy that can be cut: its connections stay open, and nothing passes. */
class Wire {
  constructor(port) {
    this.target = port;
    this.pairs = new Set();
    this.isCut = false;
  }

  async start() {
    this.listener = net.createServer((client) => {
      const server = net.connect(this.target, '127.0.0.1');
      const pair = [client, server];
      this.pairs.add(pair);
      const end = () => {
        pair.forEach((socket) => socket.destroy());
        this.pairs.delete(pair);
      };
      for (const [from, to] of [pair, [server, client]]) {
        from.setNoDelay(true);
        from.on('error', end).on('close', end).on('data', (bytes) => to.write(bytes));
        if (this.isCut) from.pause();
      }
    });
    await new Promise((resolve) => this.listener.listen(0, '127.0.0.1', resolve));
    this.port = this.listener.address().port;
  }

  cut() {
    this.isCut = true;
    for (const pair of this.pairs) pair.forEach((socket) => socket.pause());
  }

  heal() {
    this.isCut = false;
    for (const pair of this.pairs) pair.forEach((socket) => socket.resume());
  }

  stop() {
    for (const pair of this.pairs) pair.forEach((socket) => socket.destroy());
    this.listener.close();
  }
}

/** The children of a process. */
function children(pid) {
  const all = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return all.map(Number).filter((one) => {
    try {
      return Number(readFileSync(`/proc/${one}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')[1]) === pid;
    } catch {
      return false;
    }
  });
}

export class Postgres {
  /** `name`: as a standby, which `synchronous_standby_names` may name. `disk`: the folder for its data, if not its own. */
  constructor(name, { disk = null } = {}) {
    this.name = name;
    this.disk = disk;
    this.bin = binaries();
    this.folder = null;
    this.child = null;
  }

  async #prepare() {
    this.folder = mkdtempSync(join(tmpdir(), 'settee-pg-'));
    this.port ??= await freePort();
    if (!this.wire) {
      this.wire = new Wire(this.port);
      await this.wire.start();
    }
    for (const folder of [this.folder, this.disk]) if (folder) await give(folder);
  }

  #run(program, args) {
    const [command, ...rest] = [...own(), join(this.bin, program), ...args];
    return run(command, rest, { cwd: this.folder, env: { ...process.env, LC_ALL: 'C' } });
  }

  get data() {
    return join(this.disk ?? this.folder, 'data');
  }

  /** Makes a new server. `args`: for `initdb`. */
  async create(settings = {}, args = []) {
    await this.#prepare();
    await this.#run('initdb', ['--no-sync', '--auth=trust', '--username=settee', '--encoding=UTF8', '--locale=C', ...args, '-D', this.data]);
    for (const [name, value] of Object.entries(settings)) this.#set(name, value);
    return this.start();
  }

  /** Makes a copy of `primary` that follows it. */
  async follow(primary) {
    this.remove();
    await this.#prepare();
    await this.#run('pg_basebackup', ['--checkpoint=fast', '--no-sync', '--write-recovery-conf', '-d', primary.#connection(this.name), '-D', this.data]);
    this.#set('primary_conninfo', primary.#connection(this.name));
    return this.start();
  }

  /** Follows another primary from now on; null: none. */
  async followInstead(primary) {
    this.#set('primary_conninfo', primary ? primary.#connection(this.name) : '');
    await this.sql('select pg_reload_conf()');
    if (!primary) await until(`${this.name} to follow nobody`, async () => (await this.sql('select count(*) from pg_stat_wal_receiver')) === '0', 60);
  }

  #connection(name) {
    return `host=127.0.0.1 port=${this.wire.port} user=settee dbname=postgres application_name=${name}`;
  }

  #set(name, value) {
    // The last line counts.
    appendFileSync(join(this.data, 'postgresql.auto.conf'), `${name} = '${value}'\n`);
  }

  async start() {
    const out = openSync(join(this.folder, 'log'), 'a');
    const settings = ['listen_addresses=127.0.0.1', `port=${this.port}`, 'max_connections=200', 'shared_buffers=32MB', 'wal_level=replica', 'fsync=on'];
    const args = ['-D', this.data, '-k', this.folder, ...settings.flatMap((setting) => ['-c', setting])];
    const [command, ...rest] = [...own(), join(this.bin, 'postgres'), ...args];
    const child = spawn(command, rest, { cwd: this.folder, stdio: ['ignore', out, out] });
    closeSync(out);
    this.child = child;
    this.exited = new Promise((resolve) => child.on('exit', resolve));
    running.add(child);
    child.on('exit', () => running.delete(child));
    await until(`PostgreSQL ${this.name} to start`, () => this.sql('select 1').then(() => true, () => false), 120);
    return this;
  }

  /** The address for settee, past the proxy. */
  get address() {
    return `postgres://settee@127.0.0.1:${this.port}/postgres`;
  }

  /** Whether it has ended. */
  get isGone() {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  /** What it has written to its log. */
  log() {
    return readFileSync(join(this.folder, 'log'), 'utf8');
  }

  /** Runs SQL as the owner, past the proxy. Resolves to what it prints. */
  async sql(text) {
    const { stdout } = await run(join(this.bin, 'psql'), ['-h', '127.0.0.1', '-p', String(this.port), '-U', 'settee', '-d', 'postgres', '-X', '-q', '-t', '-A', '-c', text]);
    return stdout.trim();
  }

  async #end() {
    if (!this.child) return;
    await this.exited;
    this.child = null;
  }

  /** Ends it as a crash would. */
  async kill() {
    if (!this.child) return;
    const all = [this.child.pid, ...children(this.child.pid)];
    for (const pid of all) process.kill(pid, 'SIGKILL');
    await this.#end();
  }

  /** Stops it, cutting its connections. */
  async stop() {
    this.child?.kill('SIGINT');
    await this.#end();
  }

  #signal(signal) {
    const pid = this.child.pid;
    process.kill(pid, signal);
    for (const child of children(pid)) {
      try {
        process.kill(child, signal);
      } catch {
        // It has ended.
      }
    }
  }

  /** It and its connections stay open, and say nothing. */
  freeze() {
    this.#signal('SIGSTOP');
  }

  thaw() {
    this.#signal('SIGCONT');
  }

  remove() {
    if (this.folder) rmSync(this.folder, { recursive: true, force: true });
    this.folder = null;
  }

  async clean() {
    await this.kill().catch(() => {});
    this.wire?.stop();
    this.remove();
  }
}

/** A primary with two standbys of which one has each acknowledged write. */
export class Cluster {
  constructor() {
    this.all = ['a', 'b', 'c'].map((name) => new Postgres(name));
    [this.primary, ...this.standbys] = this.all;
  }

  async start() {
    await this.primary.create({ synchronous_standby_names: 'ANY 1 (a, b, c)' });
    for (const standby of this.standbys) await standby.follow(this.primary);
    await this.complete();
    return this;
  }

  /** Waits until both standbys follow. */
  complete() {
    return until('two standbys', async () => (await this.primary.sql("select count(*) from pg_stat_replication where state = 'streaming' and sync_state = 'quorum'")) === '2', 120);
  }

  /** The address for settee: all hosts, whichever of them takes writes. */
  get address() {
    return `postgres://settee@${this.all.map(({ wire }) => `127.0.0.1:${wire.port}`).join(',')}/postgres`;
  }

  /** The standby that has more takes over, and the other one follows it. */
  async failOver() {
    for (const standby of this.standbys) await standby.followInstead(null);
    const has = await Promise.all(this.standbys.map(async (standby) => BigInt(await standby.sql("select pg_last_wal_receive_lsn() - '0/0'"))));
    const next = this.standbys[has[1] > has[0] ? 1 : 0];
    const [other, old] = [this.standbys.find((one) => one !== next), this.primary];
    await next.sql('select pg_promote(true, 60)');
    await other.followInstead(next);
    [this.primary, this.standbys] = [next, [other]];
    return old;
  }

  /** The server that was replaced is made anew as a standby. */
  async rejoin(old) {
    await old.follow(this.primary);
    this.standbys.push(old);
    await this.complete();
  }

  async stop() {
    for (const one of this.all) await one.clean();
  }
}
