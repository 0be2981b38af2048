// Runs a command of settee (`settee admin`, `settee livesync`, ...), and the server itself where a test looks at its
// start.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { binary } from './server.js';

/** Runs settee. Resolves to its exit code, its standard output and its standard error. */
export function settee(args, { env = {}, input = '', cwd } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(binary(), args, { cwd, env: { ...process.env, ...env } });
    let [out, err] = ['', ''];
    child.stdout.on('data', (part) => (out += part));
    child.stderr.on('data', (part) => (err += part));
    const limit = setTimeout(() => child.kill('SIGKILL'), 120_000);
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(limit);
      resolve({ code, signal, out, err });
    });
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

/** Runs `work` with a new folder. */
export async function inFolder(work) {
  const folder = mkdtempSync(join(tmpdir(), 'settee-command-'));
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
