// A settee of its own for a benchmark, in a new folder.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '../protocol-tests/harness/server.js';

export const authorization = `Basic ${btoa('admin:bench')}`;
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A server of `SETTEE_BIN` on the engine `engine`, whose admin is `admin` with the password `bench`. */
export class Server {
  constructor(engine) {
    this.engine = engine;
    this.folder = mkdtempSync(join(tmpdir(), 'settee-bench-'));
    this.data = join(this.folder, 'data');
  }

  /** A server that has started. */
  static async started(engine) {
    const server = new Server(engine);
    await server.start();
    return server;
  }

  async start() {
    this.port = await freePort();
    const args = ['serve', '--data', this.data, '--bind', `127.0.0.1:${this.port}`, '--log', 'error', '--store', this.engine];
    const env = { ...process.env, COUCHDB_USER: 'admin', COUCHDB_PASSWORD: 'bench' };
    this.child = spawn(process.env.SETTEE_BIN, args, { stdio: ['ignore', 2, 2], env });
    process.on('exit', () => this.child.kill('SIGKILL'));
    for (let n = 0; !(await this.ask('GET', '/_up').catch(() => null)); n++) {
      if (n > 600) throw new Error('settee did not start');
      await pause(100);
    }
  }

  /** Sends a request as the admin, and returns the answer's JSON. */
  async ask(method, path, body) {
    const headers = { authorization, 'content-type': 'application/json' };
    const answer = await fetch(`http://127.0.0.1:${this.port}${path}`, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return JSON.parse(text);
  }

  async stop(signal = 'SIGTERM') {
    const ended = once(this.child, 'exit');
    this.child.kill(signal);
    await ended;
  }

  remove() {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
