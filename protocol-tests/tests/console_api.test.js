// The console's files, and the endpoints that were made for it (docs/console-api.md).

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { external } from '../harness/server.js';

describe('the files of the console', { skip: !!external }, () => {
  const api = new Api();
  before(() => api.start());
  after(() => api.stop());

  it('are served with a strict policy, and revalidated by their hash', async () => {
    for (const [path, type] of [
      ['/_utils/', 'text/html; charset=utf-8'],
      ['/_utils/index.html', 'text/html; charset=utf-8'],
      ['/_utils/session.html?return=%2Fdb&reason=x', 'text/html; charset=utf-8'],
    ]) {
      const answer = await api.call(`GET ${path}`, { as: null });
      assert.equal(answer.status, 200, path);
      assert.equal(answer.headers['content-type'], type);
      assert.equal(answer.headers['cache-control'], 'no-cache');
      assert.equal(answer.headers['x-content-type-options'], 'nosniff');
      assert.equal(answer.headers['referrer-policy'], 'no-referrer');
      const policy = answer.headers['content-security-policy'];
      for (const rule of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "form-action 'none'"]) {
        assert.ok(policy.split(/;\s*/).includes(rule), `${rule} in ${policy}`);
      }
      const again = await api.call(`GET ${path}`, { as: null, send: { 'If-None-Match': answer.headers.etag } });
      assert.deepEqual([again.status, again.text, again.headers.etag], [304, '', answer.headers.etag]);
    }
  });

  it('name only files that are there', async () => {
    const seen = new Set();
    const look = async (path) => {
      if (seen.has(path)) return;
      seen.add(path);
      const { status, text, headers } = await api.call(`GET ${path}`, { as: null });
      assert.equal(status, 200, path);
      if (!/html|javascript/.test(headers['content-type'])) return;
      const names = /html/.test(headers['content-type'])
        ? [...text.matchAll(/<(?:script|link)[^>]*?(?:src|href)="([^"#]+)"/g)]
        : [...text.matchAll(/(?:^|[\s;])(?:import|from)\s*\(?['"](\.[^'"]+)['"]/g)];
      for (const [, name] of names) await look(new URL(name, `http://x${path}`).pathname);
    };
    await look('/_utils/');
    assert.ok(seen.size > 2);
  });

  it('are compressed', async () => {
    const answer = await api.call('GET /_utils/', { as: null, send: { 'Accept-Encoding': 'gzip' } });
    assert.equal(answer.headers['content-encoding'], 'gzip');
  });

  it('are relative to _utils on the page at the root', async () => {
    const page = await api.call('GET /', { as: null, send: { Accept: 'text/html' } });
    assert.match(page.text, /<head>\s*<base href="_utils\/">/);
    assert.match(page.headers.vary, /accept/i);
  });
});

describe('the files of the console in development', { skip: !!external }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'settee-console-'));
  const api = new Api({ env: { SETTEE_CONSOLE_DIR: folder } });
  before(() => api.start());
  after(async () => {
    await api.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('are read from the folder at each request', async () => {
    assert.equal((await api.call('GET /_utils/')).status, 404);
    for (const text of ['<head>one</head>', '<head>two</head>']) {
      writeFileSync(join(folder, 'index.html'), text);
      assert.equal((await api.call('GET /_utils/')).text, text);
    }
    assert.equal((await api.call('GET /_utils/..%2f..%2fetc%2fpasswd')).status, 404);
  });
});
