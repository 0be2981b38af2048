// CI notices skipped tests: `harness/skips.js`.

import { describe, it, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const reporter = fileURLToPath(new URL('../harness/skips.js', import.meta.url));

describe('skipped tests', () => {
  let folder;
  before(() => (folder = mkdtempSync(join(tmpdir(), 'settee-skips-'))));
  after(() => rmSync(folder, { recursive: true }));

  /** Runs a file of tests with the reporter alone. Resolves to its exit code and what it printed. */
  const run = (tests, ci) => {
    const file = join(folder, 'some.test.mjs');
    writeFileSync(file, `import { describe, it } from 'node:test';\n${tests}`);
    const env = { ...process.env, CI: ci };
    // The process is a run of its own, not a part of this one.
    delete env.NODE_TEST_CONTEXT;
    const { status, stdout } = spawnSync(process.execPath, ['--test', `--test-reporter=${reporter}`, '--test-reporter-destination=stdout', file], { env, encoding: 'utf8' });
    return { status, stdout };
  };
  const skipped = `it('runs', () => {});\nit('has a reason', { skip: 'no server' }, () => {});\ndescribe('a group', { skip: true }, () => { it('inside', () => {}); });`;

  it('fail the run in CI, which names them', () => {
    const { status, stdout } = run(skipped, 'true');
    assert.equal(status, 1, stdout);
    assert.match(stdout, /some\.test\.mjs: has a reason: no server\n/);
    assert.match(stdout, /some\.test\.mjs: a group: true\n/);
    assert.doesNotMatch(stdout, /runs/);
  });

  it('do not fail the run elsewhere', () => {
    for (const ci of ['', '0', 'false']) assert.deepEqual(run(skipped, ci), { status: 0, stdout: '' });
  });

  it('may be on the list', () => {
    assert.deepEqual(run(`it('uploads and downloads 1 GiB in bounded memory', { skip: 'set LONG=1' }, () => {});`, 'true'), { status: 0, stdout: '' });
  });

  it('do not hide a failure', () => {
    assert.equal(run(`it('fails', () => { throw new Error(); });`, '').status, 1);
  });
});
