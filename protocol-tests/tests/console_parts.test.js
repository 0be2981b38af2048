// Small pure parts of the console's screens: names of clients, one-time codes, pictures.

import { test } from 'node:test';
import assert from 'node:assert/strict';
import { clientName } from '../../src/console/sync/client-name.js';
import { base32, code, matches, newKey, otpauth } from '../../src/console/users/totp.js';
import { barPath, linePath, roundUp, summary } from '../../src/console/chart.js';

test('a browser has a short name, another client its own', () => {
  const rows = [
    ['Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0', 'Firefox 132 on Linux'],
    ['Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36', 'Chrome 130 on Android'],
    ['Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36 Edg/130.0.0.0', 'Edge 130 on Windows'],
    ['Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1', 'Safari 17 on iPhone'],
    ['Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) obsidian/1.5.3 Chrome/114.0 Electron/25.8.1 Safari/537.36', 'Obsidian 1.5.3 on Linux'],
    ['curl/8.5.0', 'curl/8.5.0'],
    ['my app <b>', 'my app <b>'],
    ['', 'Unknown app'],
    [null, 'Unknown app'],
  ];
  for (const [agent, expected] of rows) assert.equal(clientName(agent), expected);
});

test('one-time codes are those of RFC 6238', async () => {
  const key = base32(new TextEncoder().encode('12345678901234567890'));
  assert.equal(key, 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ');
  const rows = [[59, '287082'], [1111111109, '081804'], [1111111111, '050471'], [1234567890, '005924'], [2000000000, '279037'], [20000000000, '353130']];
  for (const [seconds, expected] of rows) assert.equal(await code(key, seconds * 1000), expected);
  assert.ok(await matches(key, '287 082', 59_000 + 30_000));
  assert.ok(!(await matches(key, '287082', 59_000 + 90_000)));
  assert.match(newKey(), /^[A-Z2-7]{32}$/);
  assert.equal(otpauth('ann b', key), `otpauth://totp/settee:ann%20b?secret=${key}&issuer=settee`);
});

test('a picture has round numbers, breaks at gaps and never leaves its box', () => {
  const rows = [[0, 1], [0.3, 0.5], [1, 1], [1.1, 2], [49, 50], [51, 100], [1e9, 1e9]];
  for (const [value, expected] of rows) assert.equal(roundUp(value), expected);
  assert.equal(roundUp(3 * 1024 * 1024, 1024), 5 * 1024 * 1024);
  const frame = { from: 0, to: 100, top: 10, step: 10 };
  const points = [{ at: 0, value: 0 }, { at: 10, value: 10 }, { at: 90, value: 5 }, { at: 100, value: null }];
  assert.equal(linePath(points, frame), 'M0.0 100.00L100.0 0.00M900.0 50.00');
  assert.equal(barPath([{ at: 0, value: 0 }, { at: 50, value: 5, base: 5 }], frame), 'M500.0 0.00h80.0v50.00h-80.0z');
  assert.equal(linePath([{ at: 0, value: 50 }], frame), 'M0.0 0.00');
  const text = summary({ title: 'Memory', format: String, series: [{ name: 'memory', points: [] }] });
  assert.equal(text, 'Memory. memory: nothing recorded yet.');
});
