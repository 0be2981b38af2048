// `settee livesync --doctor`: what it says of settings and of proxies, its last line and its exit code.

import http from 'node:http';
import { once } from 'node:events';
import { describe, it, assert, Api } from '../harness/rows.js';
import { external } from '../harness/server.js';
import { settee } from '../harness/command.js';

const CONFIG = '/_node/_local/_config';
const WELL = 'LiveSync has nothing to complain of.';

describe('settee livesync --doctor', { skip: !!external }, () => {
  const withServer = (settings, work) => async () => {
    const api = new Api({ args: settings.flatMap((setting) => ['--set', setting]) });
    await api.start();
    try {
      await work(api);
    } finally {
      await api.stop();
    }
  };

  /** Runs `work` with the URL of a proxy before the server. `change` gets each answer; `refuses`: what does not get there. */
  const withProxy = async (api, { change = () => {}, refuses = () => false }, work) => {
    const proxy = http.createServer((request, response) => {
      if (refuses(request)) return response.writeHead(403, { Server: 'strict' }).end('<html>No');
      const headers = { ...request.headers };
      const onward = http.request({ host: '127.0.0.1', port: api.server.port, method: request.method, path: request.url, headers }, (answer) => {
        change(answer);
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      request.pipe(onward);
    });
    await once(proxy.listen(0, '127.0.0.1'), 'listening');
    try {
      await work(`http://admin:pass%20word%3A1@127.0.0.1:${proxy.address().port}`);
    } finally {
      proxy.closeAllConnections();
      proxy.close();
    }
  };

  const doctor = async (...args) => {
    const { code, out, err } = await settee(['livesync', '--doctor', ...args]);
    assert.equal(err, '');
    const lines = out.trimEnd().split('\n');
    return { code, out, last: lines.at(-1), wrong: lines.filter((line) => line.startsWith('WRONG')) };
  };

  const data = (api) => ['--data', `${api.server.folder}/data`];

  it('names the setting if CORS is off, and its cure once, and blames no proxy', withServer(['chttpd/enable_cors=false'], async (api) => {
    await api.ok(`PUT ${CONFIG}/chttpd/require_valid_user`, { body: '"true"' });
    const sick = await doctor(...data(api));
    assert.equal(sick.code, 1);
    assert.ok(!/proxy/.test(sick.out), sick.out);
    assert.match(sick.out, /^WRONG .*\(CORS\): chttpd\/enable_cors is false\n {7}cure: chttpd\/enable_cors = true$/m);
    assert.equal(sick.out.split('cure: ').length - 1, 1, sick.out);
    assert.equal(sick.wrong.length, 2, sick.out);
    assert.match(sick.wrong[1], /app:\/\/obsidian.md.*: follows from the settings above, and is cured with them$/);
    assert.match(sick.last, /^2 lines are wrong\. .*--apply/);
    const cured = await doctor('--apply', ...data(api));
    assert.deepEqual([cured.code, cured.last], [0, WELL], cured.out);
    assert.match(cured.out, /^ {7}set chttpd\/enable_cors = true$/m);
    const well = await doctor(...data(api));
    assert.deepEqual([well.code, well.last, well.wrong], [0, WELL, []]);
  }));

  it('prints each setting that it changes', withServer(['couchdb/max_document_size=8000000'], async (api) => {
    const before = await api.ok(`GET ${CONFIG}`);
    const { code, out } = await doctor('--apply', ...data(api));
    assert.equal(code, 0, out);
    const after = await api.ok(`GET ${CONFIG}`);
    const lines = Object.entries(after).flatMap(([section, keys]) =>
      Object.entries(keys).flatMap(([key, value]) => (before[section]?.[key] === value ? [] : [`${section}/${key} = ${value}`])));
    // The server derives WWW-Authenticate from the others.
    const changed = lines.filter((line) => !line.includes('WWW-Authenticate'));
    assert.deepEqual(out.match(/(?<=^ {7}set ).*$/gm).sort(), changed.sort());
    assert.equal(changed.length, 3);
    assert.equal((await api.call('GET /_up', { as: null })).status, 200, 'monitors need no account');
  }));

  it('ends with what is left, if a proxy changes the headers', withServer([], async (api) => {
    await withProxy(api, { change: (answer) => delete answer.headers['access-control-allow-origin'] }, async (url) => {
      const cured = await doctor(url, '--apply');
      assert.equal(cured.code, 1, cured.out);
      const [, after] = cured.out.split('After these changes:');
      assert.equal(after.match(/^WRONG/gm).length, 1, cured.out);
      assert.match(after, /to capacitor:\/\/localhost, the answer allows no origin; .*does a proxy change the headers\?$/m);
      assert.equal(cured.last, '1 line is wrong, and no setting of the server cures that.');
      assert.equal((await doctor(url)).last, cured.last);
    });
  }));

  it('says which cure failed, and goes on', withServer(['chttpd/enable_cors=false', 'couchdb/max_document_size=8000000'], async (api) => {
    const refuses = ({ method, url }) => method === 'PUT' && url.endsWith('enable_cors');
    await withProxy(api, { refuses }, async (url) => {
      const { code, out, last } = await doctor(url, '--apply');
      assert.equal(code, 1, out);
      assert.match(out, /^ {7}not cured: not the server .*, but a proxy .* PUT .*\/enable_cors with 403 Forbidden, Server: strict/m);
      assert.match(out, /set couchdb\/max_document_size = 50000000/);
      assert.equal(last, '2 lines are wrong.', out);
    });
  }));
});
