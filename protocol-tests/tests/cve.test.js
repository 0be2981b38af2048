// Tries every published vulnerability of Apache CouchDB (its documentation, `cve/`) on settee, one test per
// CVE. A table in docs/security.md explains why each attack fails. Where an attack needs a feature that
// settee does not have, the test asserts that the feature is absent.

import { spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { suite, describe, it, before, assert, Api } from '../harness/rows.js';
import { raw } from '../harness/http.js';
import { external, ADMIN, PASSWORD, binary } from '../harness/server.js';

const skip = !!external;
const config = '/_node/_local/_config';
const cookieOf = (answer) => (answer.headers['set-cookie']?.[0] ?? '').split(';')[0];
const json = { 'Content-Type': 'application/json' };
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

/** Signs a user in. Resolves to the headers that a browser sends with the following requests. */
async function browser(api, name, password) {
  const answer = await api.call('POST /_session', { as: null, body: { name, password } });
  assert.equal(answer.status, 200, answer.text);
  return { Cookie: cookieOf(answer) };
}

const user = (name, password, more = {}) => ({ _id: `org.couchdb.user:${name}`, type: 'user', name, password, roles: [], ...more });

suite(
  'CVEs of Apache CouchDB',
  (api) => {
    before(async () => {
      // The tests try more wrong passwords than the lockout allows per address.
      await api.ok(`PUT ${config}/chttpd_auth_lockout/mode`, { body: '"off"' });
      await api.ok('POST /_users', { body: user('ann', 'anns') });
      await api.ok('POST /_users', { body: user('ben', 'bens') });
    });

    it('CVE-2010-0009: nobody learns by time how much of a password or of a cookie is right', async () => {
      // Passwords are compared by their hashes, so the comparison leaks little. The largest leak would be a
      // fast rejection of unknown names.
      const timed = async (as) => {
        const times = [];
        for (let n = 0; n < 5; n += 1) {
          const from = process.hrtime.bigint();
          assert.equal((await api.call('GET /_session', { as })).status, 401);
          times.push(Number(process.hrtime.bigint() - from) / 1e6);
        }
        return median(times);
      };
      const [known, unknown] = [await timed('ann:wrong'), await timed('nobodyhere:wrong')];
      assert.ok(unknown > known / 4, `a name that is not there is refused in ${unknown} ms, a wrong password in ${known} ms`);
      // A forged cookie gets the same response, whichever byte is wrong.
      const { Cookie } = await browser(api, 'ann', 'anns');
      const bytes = Buffer.from(Cookie.split('=')[1], 'base64url');
      const answers = new Set();
      for (const at of [bytes.length - 1, bytes.length - 16, bytes.length - 31]) {
        const forged = Buffer.from(bytes);
        forged[at] ^= 1;
        const answer = await api.call('GET /_session', { as: null, send: { Cookie: `AuthSession=${forged.toString('base64url')}` } });
        assert.ok(!answer.text.includes('"ann"'), answer.text);
        answers.add(`${answer.status} ${answer.text}`);
      }
      assert.equal(answers.size, 1);
    });

    it('CVE-2010-2234: a page of another site does nothing with the session of who looks at it', async () => {
      const name = await api.db();
      const session = await browser(api, ADMIN, PASSWORD);
      // Requests that forms and CORS "simple requests" can send without a preflight, as old and current
      // browsers send them.
      const evil = { Origin: 'https://evil.example', Referer: 'https://evil.example/' };
      const design = JSON.stringify({ _id: '_design/evil', updates: { u: 'function () { return [{_id: "forged"}, "x"]; }' } });
      await api.ok(`PUT /${name}/_design/d`, { body: { updates: { u: 'function () { return [{_id: "forged"}, "x"]; }' } } });
      for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']) {
        for (const [path, body] of [
          [`/${name}`, design],
          [`/${name}/_bulk_docs`, `{"docs":[${design}]}`],
          [`/${name}/_purge`, '{}'],
          [`/${name}/_compact`, ''],
          [`/${name}/_compact/d`, ''],
          [`/${name}/_view_cleanup`, ''],
          [`/${name}/_ensure_full_commit`, ''],
          [`/${name}/_index`, '{"index":{"fields":["a"]}}'],
          [`/${name}/_index/_bulk_delete`, '{"docids":[]}'],
          ['/_cluster_setup', '{"action":"enable_single_node"}'],
          ['/_reload_query_servers', ''],
          [`/${name}/_revs_diff`, '{}'],
          [`/${name}/_find`, '{"selector":{}}'],
        ]) {
          const answer = await api.call(`POST ${path}`, { as: null, send: { ...session, ...evil, 'Content-Type': type }, body });
          assert.equal(answer.status, 415, `${path} as ${type}: ${answer.status} ${answer.text}`);
          assert.equal(answer.headers['access-control-allow-origin'], undefined);
        }
      }
      const form = '--x\r\nContent-Disposition: form-data; name="_doc"\r\n\r\n{"a":1}\r\n--x--\r\n';
      const posted = await api.call(`POST /${name}/forged`, { as: null, send: { ...session, ...evil, 'Content-Type': 'multipart/form-data; boundary=x' }, body: form });
      assert.equal(posted.status, 400);
      assert.match(posted.json.reason, /Referer/);
      // Requests that need no JSON body are rejected by the Sec-Fetch-* headers of current browsers.
      const fetched = { ...session, ...evil, 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors' };
      for (const req of ['POST /_node/_local/_restart', `POST ${config}/_reload`, `POST /${name}/_sync_shards`, `POST /${name}/_design/d/_update/u`, `GET /${name}/_design/d/_update/u`, 'DELETE /_session']) {
        const answer = await api.call(req, { as: null, send: fetched });
        assert.equal(answer.status, 403, `${req}: ${answer.status} ${answer.text}`);
      }
      // A form that would sign the visitor in as somebody else, from a browser of today and from an old one.
      for (const send of [{ ...evil, 'Sec-Fetch-Site': 'cross-site' }, evil]) {
        const form = { ...send, 'Content-Type': 'application/x-www-form-urlencoded' };
        const answer = await api.call('POST /_session', { as: null, send: form, body: `name=${ADMIN}&password=${PASSWORD}` });
        assert.equal(answer.status, 403, answer.text);
        assert.equal(answer.headers['set-cookie'], undefined);
      }
      // The preflight for other methods is denied.
      const preflight = await api.call(`OPTIONS /${name}/forged`, { as: null, send: { ...evil, 'Access-Control-Request-Method': 'PUT' } });
      assert.equal(preflight.headers['access-control-allow-origin'], undefined);
      assert.equal(preflight.headers['access-control-allow-methods'], undefined);
      assert.equal((await api.call(`GET /${name}/forged`)).status, 404);
      assert.equal((await api.call(`GET /${name}/_design/evil`)).status, 404);
      // The same session works from the server's own origin.
      const own = await api.call(`POST /${name}/_design/d/_update/u`, { as: null, send: { ...session, 'Sec-Fetch-Site': 'same-origin' } });
      assert.equal(own.status, 201, own.text);
    });

    it('CVE-2010-3854: what a request says comes into no page as markup', async () => {
      const script = '<script>alert(1)</script>';
      const quoted = '"><script>alert(1)</script>';
      for (const [path, send] of [
        [`/_utils/?${encodeURIComponent(script)}`, {}],
        [`/_utils/index.html?next=${encodeURIComponent(quoted)}`, {}],
        [`/_utils/session.html?return=${encodeURIComponent(quoted)}&reason=${encodeURIComponent(script)}`, {}],
        ['/_utils/', { Host: 'x.example"><script>alert(1)</script>' }],
        ['/_utils/', { 'X-Forwarded-Host': quoted }],
        ['/_utils/', { Cookie: `theme=${quoted}` }],
        ['/', { 'X-Forwarded-Host': quoted, Cookie: `AuthSession=${quoted}` }],
      ]) {
        const answer = await api.call(`GET ${path}`, { as: null, send: { Accept: 'text/html', ...send } });
        assert.ok(!answer.text.includes('<script>alert'), `${path} ${JSON.stringify(send)}: ${answer.text}`);
        if (answer.status === 200) {
          assert.match(answer.headers['content-security-policy'] ?? '', /default-src 'none'/);
          // The page runs its own files only, and is the same whatever the request says.
          assert.match(answer.headers['content-security-policy'], /script-src 'self';/);
          assert.doesNotMatch(answer.headers['content-security-policy'], /unsafe-|script-src-/);
          assert.equal(answer.text, (await api.call(`GET ${path.split('?')[0]}`, { as: null, send: { Accept: 'text/html' } })).text);
        }
      }
      // An error may repeat parts of the request, but as JSON that no browser renders as a page.
      const refused = await api.call(`GET /${encodeURIComponent(script)}`, { send: { Accept: 'text/html,*/*' } });
      assert.equal(refused.status, 404);
      assert.match(refused.headers['content-type'], /^application\/json/);
      assert.equal(refused.headers['x-content-type-options'], 'nosniff');
    });

    it('CVE-2012-5641: no path leads to a file, with slashes, backslashes or escapes', { skip }, async () => {
      const up = ['..\\..\\..\\..\\etc\\passwd', '..%5c..%5c..%5c..%5cetc%5cpasswd', '../../../../etc/passwd', '..%2f..%2f..%2f..%2fetc%2fpasswd', '%2e%2e/%2e%2e/etc/passwd', 'C:%5cwindows%5cwin.ini', '..%5cdata%5cblobs', '....//....//etc/passwd', '%252e%252e%252fetc%252fpasswd'];
      const name = await api.db();
      for (const path of up) {
        for (const at of ['/_utils/', '/favicon.ico/', '/', `/${name}/`, `/${name}/_design/d/`, `/${name}/_local/`, '/_node/_local/_stats/']) {
          const answer = await raw(api.server.port, `GET ${at}${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic ${Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64')}\r\nConnection: close\r\n\r\n`);
          assert.ok(!/root:.*:0:0:|\[fonts\]/i.test(answer), `${at}${path}: ${answer}`);
          const status = Number(answer.split(' ')[1]);
          assert.ok((status >= 400 && status < 500) || at === '/favicon.ico/' || at.endsWith('_stats/'), `${at}${path}: ${answer.slice(0, 300)}`);
        }
      }
      // Database names are not file names either: no name leads out of the data folder, and its files have no
      // URL.
      for (const database of ['..%2fx', '%2e%2e%2fx', 'a%2f..%2f..%2fx', '..%5cx', 'a%5cb', '%2fetc%2fpasswd']) {
        const answer = await api.call(`PUT /${database}`);
        assert.equal(answer.status, 400, `${database}: ${answer.text}`);
        assert.equal(answer.json.error, 'illegal_database_name', database);
      }
      assert.deepEqual(readdirSync(api.server.folder).sort(), ['data', 'log']);
    });

    it('CVE-2012-5649: JSONP is off, and calls nothing but a named function where it is on', async () => {
      const name = await api.db();
      await api.ok(`PUT /${name}/doc`, { body: { a: 1 } });
      for (const path of ['/', `/${name}`, `/${name}/doc`, `/${name}/_all_docs`, `/${name}/_changes`, '/_uuids', '/_session']) {
        for (const parameter of ['callback=CWS%07%0e000', 'callback=alert', 'jsonp=alert', 'cb=alert']) {
          const answer = await api.call(`GET ${path}?${parameter}`);
          assert.equal(answer.status, 200, answer.text);
          assert.doesNotThrow(() => JSON.parse(answer.text), `${path}?${parameter}: ${answer.text}`);
          assert.match(answer.headers['content-type'], /^application\/json/);
          assert.equal(answer.headers['x-content-type-options'], 'nosniff');
        }
      }
      // If JSONP is enabled, the response starts with a comment and the callback must be an identifier, so
      // that the response cannot be a Flash file.
      await api.ok(`PUT ${config}/chttpd/allow_jsonp`, { body: '"true"' });
      const answer = await api.call('GET /_uuids?callback=alert');
      assert.ok(answer.text.startsWith('/* CouchDB */alert({'), answer.text);
      assert.match(answer.headers['content-type'], /^application\/javascript/);
      assert.equal((await api.call('GET /_uuids?callback=CWS%07%0e000')).status, 400);
      await api.ok(`DELETE ${config}/chttpd/allow_jsonp`);
    });

    it('CVE-2012-5650: no page of the server runs a script or loads one from elsewhere', async () => {
      for (const path of ['/_utils/couch_tests.html?script/couch_tests.js', '/_utils/custom_test.html', '/_utils/verify_install.html', '/_utils/script/test/basics.js', '/_utils/dashboard.assets/js/x.js']) {
        assert.equal((await api.call(`GET ${path}`, { send: { Accept: 'text/html' } })).status, 404, path);
      }
      for (const path of ['/_utils/', '/_utils/index.html', '/_utils/session.html', '/']) {
        const { text, headers } = await api.call(`GET ${path}?file=//evil.example/x.js#//evil.example/x.js`, { send: { Accept: 'text/html' } });
        assert.ok(!text.includes('evil.example'), text);
        // All scripts of a page are the server's own files: no inline scripts, no other origins, no eval.
        for (const [, attributes] of text.matchAll(/<script([^>]*)>/g)) assert.match(attributes, /src="\/?[\w./-]+"/);
        const policy = headers['content-security-policy'];
        assert.match(policy, /default-src '(none|self)'/);
        assert.doesNotMatch(policy, /unsafe-eval|script-src[^;]*('unsafe-inline'|\*|https?:)/);
      }
    });

    it('CVE-2014-2668: _uuids makes no more than a thousand at once', async () => {
      for (const count of ['1001', '100000000', '9999999999999999999999999', '-1', '1e9', '0x7fffffff', 'x']) {
        const from = Date.now();
        const answer = await api.call(`GET /_uuids?count=${count}`, { as: null });
        assert.equal(answer.status, 400, `${count}: ${answer.status}`);
        assert.equal(answer.json.error, 'bad_request');
        assert.ok(Date.now() - from < 2000);
      }
      assert.equal((await api.ok('GET /_uuids?count=1000', { as: null })).uuids.length, 1000);
    });

    it('CVE-2017-12635: a member that is there twice is one, and makes nobody an admin', async () => {
      await api.ok(`PUT ${config}/chttpd_auth/allow_sign_up`, { body: '"true"' });
      let n = 0;
      const attempt = async (how, make) => {
        n += 1;
        const name = `mallory${n}`;
        const id = `org.couchdb.user:${name}`;
        const { req, body, send = json, as = null } = make(name, id);
        const answer = await api.call(req, { as, body, send });
        await settled(how, name, id, answer);
      };
      const settled = async (how, name, id, answer) => {
        const session = await api.call('GET /_session', { as: `${name}:pw` });
        assert.ok(!session.text.includes('_admin') && !session.text.includes('boss'), `${how}: ${answer.text} / ${session.text}`);
        assert.equal((await api.call(`GET ${config}`, { as: `${name}:pw` })).status, 401, how);
        const stored = await api.call(`GET /_users/${encodeURIComponent(id)}`);
        if (stored.status === 200) {
          assert.deepEqual(stored.json.roles, [], `${how}: ${stored.text}`);
          assert.equal(stored.text.match(/"roles"/g).length, 1, `${how}: ${stored.text}`);
          assert.ok(!stored.text.includes('"pw"'), `${how}: the password is there to be read: ${stored.text}`);
        }
      };
      const twice = (name, id, roles) => `{"_id":"${id}","type":"user","name":"${name}","password":"pw",${roles}}`;
      const variants = {
        'first admin': '"roles":["_admin"],"roles":[]',
        'last admin': '"roles":[],"roles":["_admin"]',
        'last escaped': '"roles":[],"r\\u006fles":["_admin"]',
        'first escaped': '"\\u0072oles":["_admin"],"roles":[]',
        'a role of the app': '"roles":["boss"],"roles":[]',
        'three times': '"roles":[],"roles":["_admin"],"roles":[]',
        'far apart': `"roles":["_admin"],${Array.from({ length: 200 }, (_, k) => `"m${k}":${k}`).join(',')},"roles":[]`,
      };
      for (const [what, roles] of Object.entries(variants)) {
        await attempt(`PUT, ${what}`, (name, id) => ({ req: `PUT /_users/${id}`, body: twice(name, id, roles) }));
        await attempt(`POST, ${what}`, (name, id) => ({ req: 'POST /_users', body: twice(name, id, roles) }));
        await attempt(`_bulk_docs, ${what}`, (name, id) => ({ req: 'POST /_users/_bulk_docs', body: `{"docs":[${twice(name, id, roles)}]}` }));
        await attempt(`as a replicator, ${what}`, (name, id) => ({
          req: 'POST /_users/_bulk_docs',
          body: `{"new_edits":false,"docs":[${twice(name, id, `"_rev":"1-0123456789abcdef0123456789abcdef",${roles}`)}]}`,
          as: 'ben:bens',
        }));
        await attempt(`multipart, ${what}`, (name, id) => ({
          req: `PUT /_users/${id}`,
          send: { 'Content-Type': 'multipart/related; boundary=x' },
          body: `--x\r\nContent-Type: application/json\r\n\r\n${twice(name, id, roles)}\r\n--x--`,
        }));
      }
      await attempt('a name twice', (name, id) => ({ req: `PUT /_users/${id}`, body: `{"type":"user","name":"${ADMIN}","name":"${name}","password":"pw","roles":[]}` }));
      await attempt('a password by an escaped name', (name, id) => ({ req: `PUT /_users/${id}`, body: `{"type":"user","name":"${name}","p\\u0061ssword":"pw","roles":[]}` }));
      // An update of the user's own existing account.
      const own = await api.ok('GET /_users/org.couchdb.user:ann', { as: 'ann:anns' });
      const text = JSON.stringify(own);
      for (const roles of ['"roles":[],"roles":["_admin"]', '"roles":["_admin"],"roles":[]', '"\\u0072oles":["boss"],"roles":[]']) {
        await api.call('PUT /_users/org.couchdb.user:ann', { as: 'ann:anns', send: json, body: text.replace('"roles":[]', roles) });
        assert.deepEqual((await api.ok('GET /_session', { as: 'ann:anns' })).userCtx.roles, []);
      }
      // Design document functions see the same members as the server.
      const name = await api.db();
      await api.ok(`PUT /${name}/_design/v`, { body: { validate_doc_update: 'function (doc) { if (doc.kind === "bad") throw({forbidden: "no"}); }' } });
      for (const [body, status] of [['{"kind":"bad","kind":"good"}', 201], ['{"kind":"good","kind":"bad"}', 403], ['{"kind":"good","k\\u0069nd":"bad"}', 403]]) {
        const answer = await api.call(`POST /${name}`, { send: json, body });
        assert.equal(answer.status, status, `${body}: ${answer.text}`);
        if (status === 201) assert.equal((await api.ok(`GET /${name}/${answer.json.id}`)).kind, 'good');
      }
      await api.ok(`DELETE ${config}/chttpd_auth/allow_sign_up`);
    });

    describe('programs named by settings', () => {
      const programs = (mark) => [
        ['query_servers', 'cmd', `/bin/sh -c "touch ${mark}"`],
        ['query_servers', 'javascript', `/bin/sh -c "touch ${mark}"`],
        ['native_query_servers', 'erlang', `{os, cmd, ["touch ${mark}"]}`],
        ['os_daemons', 'x', `/usr/bin/touch ${mark}`],
        ['external', 'x', `/usr/bin/touch ${mark}`],
        ['daemons', 'x', `{os, cmd, ["touch ${mark}"]}`],
        ['httpd_global_handlers', '_x', `{couch_httpd_proxy, handle_proxy_req, <<"http://127.0.0.1:1">>}`],
        ['httpd_db_handlers', '_x', '{os, cmd}'],
        ['httpd_design_handlers', '_x', '{os, cmd}'],
        ['feature_flags', 'x', 'true'],
        ['settee', 'data', '/'],
        ['settee', 'log', 'trace'],
      ];
      const script = (mark) => ({
        views: { v: { map: 'function (doc) { emit(doc._id); }' } },
        shows: { s: `function () { return String([typeof require, typeof process, typeof Deno, typeof std, typeof os, typeof read, typeof readFile, typeof load, typeof print, typeof XMLHttpRequest, typeof fetch].join()); }`, x: `function () { return require('fs').writeFileSync('${mark}', ''); }`, i: `function () { return import('fs'); }` },
      });

      it('CVE-2017-12636: an admin starts no program by a setting, and scripts reach nothing outside', { skip }, async () => {
        const mark = join(api.server.folder, 'marked');
        for (const [section, key, value] of programs(mark)) {
          const put = await api.call(`PUT ${config}/${section}/${key}`, { body: JSON.stringify(value) });
          assert.equal(put.status, 403, `${section}/${key}: ${put.text}`);
          assert.equal(put.json.error, 'forbidden');
          assert.equal((await api.call(`DELETE ${config}/${section}/${key}`)).status, 403, `${section}/${key}`);
        }
        const name = await api.db();
        await api.ok(`PUT /${name}/_design/d`, { body: script(mark) });
        assert.equal((await api.ok(`GET /${name}/_design/d/_view/v`)).total_rows, 0);
        const globals = await api.call(`GET /${name}/_design/d/_show/s`);
        assert.match(globals.text, /^(function|undefined),undefined(,undefined)*$/, globals.text);
        for (const show of ['x', 'i']) assert.ok((await api.call(`GET /${name}/_design/d/_show/${show}`)).status !== 201);
        // A language that would run another program is unknown.
        await api.ok(`PUT /${name}/_design/c`, { body: { language: 'cmd', views: { v: { map: `touch ${mark}` } } } });
        const unknown = await api.call(`GET /${name}/_design/c/_view/v`);
        assert.equal(unknown.status, 500);
        assert.equal(unknown.json.error, 'unknown_query_language');
        assert.ok(!existsSync(mark));
        assert.deepEqual(programsStarted(api.server.pid), [], 'the server starts nothing but its own script workers');
      });

      it('CVE-2018-8007: a value with line breaks sets one key, and nothing after a restart', { skip }, async () => {
        const mark = join(api.server.folder, 'marked');
        const values = [`x\n[os_daemons]\nx = /usr/bin/touch ${mark}`, `x\r\n[query_servers]\r\njavascript = /usr/bin/touch ${mark}`, `x\n\n[admins]\nmallory = pw\n`, 'x\u2028[admins]\u2028mallory = pw'];
        for (const [n, value] of values.entries()) await api.ok(`PUT ${config}/test_settee/k${n}`, { body: JSON.stringify(value) });
        for (const [key, status] of [['a%0a%5bos_daemons%5d', 400], ['a%0d%0ab', 400], ['a%3Db', 400], ['%5Badmins%5D', 400], ['', 405]]) {
          const answer = await api.call(`PUT ${config}/test_settee/${key}`, { body: '"x"' });
          assert.equal(answer.status, status, `${key}: ${answer.text}`);
        }
        await api.server.restart('SIGTERM');
        const all = await api.ok(`GET ${config}`);
        assert.equal(all.os_daemons, undefined);
        assert.equal(all.query_servers, undefined);
        assert.deepEqual(Object.keys(all.admins), [ADMIN]);
        for (const [n, value] of values.entries()) assert.equal(all.test_settee[`k${n}`], value.trim());
        assert.equal((await api.call('GET /_session', { as: 'mallory:pw' })).status, 401);
        assert.ok(!existsSync(mark));
      });

      it('CVE-2018-11769: the list of refused sections is not got around by how a section is written', { skip }, async () => {
        const mark = join(api.server.folder, 'marked');
        // A section that only resembles a refused one is stored, and read by nothing.
        const spelt = {
          200: ['os_daemons%20', '%20os_daemons', 'OS_DAEMONS', 'os_daemons%2f', '.%2fos_daemons', 'update_notification', 'compactions', 'httpd_global_handlers%09'],
          400: ['os_daemons%00', 'os_daemons%0a', 'vendor%5d%0a%5bos_daemons', 'couch_httpd_auth%5d'],
          403: ['%6fs_daemons', 'os%5fdaemons'],
        };
        for (const [status, section] of Object.entries(spelt).flatMap(([status, list]) => list.map((section) => [Number(status), section]))) {
          const answer = await api.call(`PUT ${config}/${section}/x`, { body: JSON.stringify(`/usr/bin/touch ${mark}`) });
          assert.equal(answer.status, status, `${section}: ${answer.text}`);
        }
        await api.ok(`POST ${config}/_reload`);
        const name = await api.db();
        await api.ok(`PUT /${name}/doc`, { body: {} });
        await api.call('GET /x');
        await api.server.restart('SIGTERM');
        const all = await api.ok(`GET ${config}`);
        for (const section of ['os_daemons', 'query_servers', 'httpd_global_handlers']) assert.equal(all[section], undefined, section);
        assert.ok(!existsSync(mark));
        assert.deepEqual(programsStarted(api.server.pid), []);
      });

      it('CVE-2018-17188: no setting at all names a program, code or a file that is run', { skip }, async () => {
        const all = await api.ok(`GET ${config}`);
        for (const section of ['query_servers', 'native_query_servers', 'os_daemons', 'external', 'daemons', 'httpd_global_handlers', 'httpd_db_handlers', 'httpd_design_handlers', 'smoosh', 'couchdb_engines']) {
          assert.equal(all[section], undefined, section);
        }
        // Unknown keys are stored for clients that write them, but have no effect. Try a command in each
        // section.
        const mark = join(api.server.folder, 'marked');
        const command = `/usr/bin/touch ${mark}`;
        const tried = Object.keys(all).filter((section) => !['admins', 'settee', 'feature_flags'].includes(section));
        for (const section of [...tried, 'log', 'replicator', 'view_compaction_daemon', 'couchdb_engines']) {
          for (const key of ['command', 'os_process', 'writer_module', 'auth_plugin']) {
            await api.call(`PUT ${config}/${encodeURIComponent(section)}/${key}`, { body: JSON.stringify(command) });
          }
        }
        await api.ok(`PUT ${config}/log/file`, { body: JSON.stringify(mark) });
        await api.ok(`PUT ${config}/couchdb/database_dir`, { body: JSON.stringify('/tmp/elsewhere') });
        await api.server.restart('SIGTERM');
        assert.equal((await api.call('GET /_up')).status, 200);
        assert.ok(!existsSync(mark) && !existsSync('/tmp/elsewhere'));
        assert.deepEqual(programsStarted(api.server.pid), []);
        // Only admins can access the settings.
        for (const as of [null, 'ann:anns']) {
          for (const req of [`GET ${config}`, `PUT ${config}/chttpd/x`, `DELETE ${config}/chttpd/x`, 'GET /_config', 'PUT /_config/query_servers/x']) {
            const answer = await api.call(req, { as, body: req.startsWith('PUT') ? '"x"' : undefined });
            assert.equal(answer.status, 401, `${req} as ${as}: ${answer.text}`);
          }
        }
      });
    });

    it('CVE-2020-1955: require_valid_user_except_for_up leaves nothing open but /_up and signing in', { skip }, async () => {
      const name = await api.db();
      await api.ok(`PUT /${name}/_security`, { body: { admins: {}, members: {} } });
      await api.ok(`PUT /${name}/doc`, { body: {} });
      const open = [`/${name}`, `/${name}/doc`, `/${name}/_all_docs`, `/${name}/_changes`, `/${name}/_security`];
      for (const path of open) assert.equal((await api.call(`GET ${path}`, { as: null })).status, 200, path);
      const asked = ['/', '/_all_dbs', '/_session', '/_uuids', '/_utils/', '/favicon.ico', '/_users', '/_node/_local/_config', '/nosuch', '/_nosuch', '//_up/..', '/_up/x', ...open];
      for (const setting of ['require_valid_user_except_for_up', 'require_valid_user']) {
        await api.ok(`PUT ${config}/chttpd/${setting}`, { body: '"true"' });
        for (const path of asked) {
          for (const method of ['GET', 'HEAD', 'PUT', 'POST', 'DELETE']) {
            const session = path === '/_session' && method === 'POST';
            const answer = await api.call(`${method} ${path}`, { as: null, body: ['PUT', 'POST'].includes(method) ? '{}' : undefined, send: json });
            assert.equal(answer.status, session ? 400 : 401, `${setting}: ${method} ${path} ${answer.text}`);
          }
          assert.equal((await api.call(`GET ${path}`, { as: 'ann:wrong' })).status, 401, `${setting}: ${path} with a wrong password`);
        }
        assert.equal((await api.call('GET /_up', { as: null })).status, setting === 'require_valid_user' ? 401 : 200);
        await api.ok(`DELETE ${config}/chttpd/${setting}`);
      }
    });

    it('CVE-2021-38295: what a document holds runs no script with the session of who opens it', async () => {
      const name = await api.db();
      const page = '<script>fetch("/_node/_local/_config/admins/mallory", {method: "PUT", body: "\\"x\\""})</script>';
      const html = { 'Content-Type': 'text/html' };
      const { rev } = await api.ok(`PUT /${name}/doc/x.html`, { body: page, send: html });
      await api.ok(`PUT /${name}/doc/x.svg?rev=${rev}`, { body: `<svg xmlns="http://www.w3.org/2000/svg">${page}</svg>`, send: { 'Content-Type': 'image/svg+xml' } });
      const sandboxed = (answer, what) => {
        assert.equal((answer.headers['content-security-policy'] ?? '').split(/[,;]/)[0].trim(), 'sandbox', `${what}: ${JSON.stringify(answer.headers)}`);
        assert.equal(answer.headers['x-content-type-options'], 'nosniff', what);
      };
      for (const [path, send] of [['x.html'], ['x.svg'], ['x.html', { Range: 'bytes=0-10' }], ['x.html', { Range: 'bytes=0-3,8-12' }], ['x.html?rev=' + rev], ['x.svg', { 'Accept-Encoding': 'gzip' }]]) {
        sandboxed(await api.call(`GET /${name}/doc/${path}`, { send }), path);
      }
      sandboxed(await api.call(`HEAD /${name}/doc/x.html`), 'HEAD');
      const open = '"Content-Security-Policy": "script-src *", "content-security-policy": "default-src * \'unsafe-inline\'"';
      const p = JSON.stringify(page);
      await api.ok(`PUT /${name}/_design/d`, {
        body: {
          views: { v: { map: 'function (doc) { emit(doc._id); }' } },
          shows: {
            text: `function () { return ${p}; }`,
            body: `function () { return { body: ${p} }; }`,
            headers: `function () { return { headers: { "Content-Type": "text/html", ${open} }, body: ${p} }; }`,
            base64: `function () { return { headers: { "Content-Type": "text/html", ${open} }, base64: "${Buffer.from(page).toString('base64')}" }; }`,
            json: `function () { return { headers: { "Content-Type": "text/html" }, json: { x: ${p} } }; }`,
            provided: `function (doc, req) { provides("html", function () { return ${p}; }); }`,
            session: 'function () { return { headers: { "Set-Cookie": "AuthSession=forged; Path=/" }, body: "x" }; }',
          },
          lists: { l: `function () { start({ headers: { "Content-Type": "text/html", ${open} } }); send(${p}); }`, plain: `function () { provides("html", function () { return ${p}; }); }` },
          updates: { u: `function () { return [null, { headers: { "Content-Type": "text/html", ${open} }, body: ${p} }]; }` },
          rewrites: `function (req) { return { code: 200, headers: { "Content-Type": "text/html" }, body: ${p} }; }`,
        },
      });
      for (const req of ['GET _show/text', 'GET _show/body', 'GET _show/headers', 'GET _show/base64', 'GET _show/json', 'GET _show/provided', 'GET _list/l/v', 'GET _list/plain/v', 'POST _update/u', 'GET _rewrite/x']) {
        const [method, path] = req.split(' ');
        const answer = await api.call(`${method} /${name}/_design/d/${path}`, { send: { Accept: 'text/html' } });
        assert.equal(answer.status, 200, `${req}: ${answer.text}`);
        assert.ok(answer.text.includes('script'), answer.text);
        sandboxed(answer, req);
      }
      // A function cannot set a session cookie.
      assert.equal((await api.call(`GET /${name}/_design/d/_show/session`)).headers['set-cookie'], undefined);
    });

    it('CVE-2022-24706: one port, on this machine unless told otherwise, and no secret that others know', { skip }, async () => {
      // The server listens on one port only; there is no Erlang distribution. Each fresh server generates its
      // own secret.
      assert.deepEqual(listening(api.server.pid), [api.server.port]);
      const fresh = new Api();
      await fresh.start();
      try {
        assert.notEqual((await fresh.ok('GET /')).uuid, (await api.ok('GET /')).uuid);
        const { Cookie } = await browser(fresh, ADMIN, PASSWORD);
        const answer = await api.call('GET /_session', { as: null, send: { Cookie } });
        assert.ok(!answer.text.includes('"_admin"'), 'a session of another server is none here');
        // Cookies signed with CouchDB's well-known secrets are invalid.
        const forged = Buffer.from(`${ADMIN}:${Math.floor(Date.now() / 1000).toString(16).toUpperCase()}:`);
        for (const secret of ['monster', 'brumbrum', '', 'secret', 'a']) {
          const { createHmac } = await import('node:crypto');
          const mac = createHmac('sha256', secret).update(forged.subarray(0, -1)).digest();
          const cookie = Buffer.concat([forged, mac]).toString('base64url');
          const got = await api.call('GET /_session', { as: null, send: { Cookie: `AuthSession=${cookie}` } });
          assert.ok(!got.text.includes('"_admin"'), secret);
        }
        for (const req of ['GET /_all_dbs', 'GET /_users/_all_docs', `GET ${config}`, 'PUT /adminparty', 'GET /_node/_local/_system', 'POST /_cluster_setup']) {
          const got = await fresh.call(req, { as: null, send: json, body: req.startsWith('GET') ? undefined : '{}' });
          assert.equal(got.status, 401, `${req}: ${got.text}`);
        }
        for (const as of ['admin:admin', 'admin:password', 'root:', 'admin:']) assert.equal((await fresh.call('GET /_session', { as })).status, 401, as);
      } finally {
        await fresh.stop();
      }
      const help = await output(binary(), ['--help']);
      assert.match(help, /127\.0\.0\.1:5984/, 'the default address is this machine');
    });

    it('CVE-2023-26268: functions of equal design documents in two databases share nothing', async () => {
      const keep = (argument) => `var seen = globalThis.kept || []; seen.push(${argument}); globalThis.kept = seen; Array.prototype.kept = seen; JSON.kept = seen; Object.prototype.kept = seen;`;
      const design = {
        views: {
          v: { map: 'function (doc) { emit(doc._id); }' },
          f: { map: `function (doc) { if (doc.secret) { ${keep('doc.secret')} } emit(String(globalThis.kept)); }` },
        },
        validate_doc_update: `function (doc, old, user) { if (doc.peek) throw({ forbidden: String(globalThis.kept) }); ${keep('doc.secret')} }`,
        filters: { f: `function (doc, req) { if (req.query.peek) throw({ forbidden: String(globalThis.kept) }); ${keep('doc.secret')} return true; }` },
        shows: { s: `function (doc, req) { if (!req.query.peek) { ${keep('req.query.secret')} } return String(globalThis.kept) + String([].kept) + String(JSON.kept); }` },
        lists: { l: `function (head, req) { if (!req.query.peek) { ${keep('req.query.secret')} } send(String(globalThis.kept)); }` },
        updates: { u: `function (doc, req) { if (!req.query.peek) { ${keep('req.query.secret')} } return [null, String(globalThis.kept)]; }` },
        rewrites: `function (req) { if (!req.query.peek) { ${keep('req.query.secret')} } return { code: 200, body: String(globalThis.kept) }; }`,
      };
      const [one, other] = [await api.db(), await api.db()];
      for (const name of [one, other]) {
        // The same id and revision in both databases, as after a replication.
        await api.ok(`PUT /${name}/_design/d?new_edits=false`, { body: { ...design, _rev: `1-${'a'.repeat(32)}` } });
        await api.ok(`PUT /${name}/_security`, { body: { members: {}, admins: {} } });
      }
      const secret = 'S3CRET';
      for (let n = 0; n < 6; n += 1) {
        await api.ok(`PUT /${one}/doc${n}`, { body: { secret } });
        for (const path of ['_show/s', '_list/l/v', '_rewrite/x']) await api.call(`GET /${one}/_design/d/${path}?secret=${secret}`);
        await api.call(`POST /${one}/_design/d/_update/u?secret=${secret}`);
        await api.call(`GET /${one}/_changes?filter=d/f`);
        await api.call(`GET /${one}/_changes?filter=_view&view=d/f`);
        await api.call(`GET /${one}/_design/d/_view/f`);
      }
      await api.call(`PUT /${other}/plain`, { body: {} });
      for (let n = 0; n < 6; n += 1) {
        for (const req of ['GET _design/d/_show/s', 'GET _design/d/_list/l/v', 'GET _design/d/_rewrite/x', 'POST _design/d/_update/u', 'GET _changes?filter=d/f', 'GET _changes?filter=_view&view=d/f', 'GET _design/d/_view/f', 'PUT peeked']) {
          const [method, path] = req.split(' ');
          const answer = await api.call(`${method} /${other}/${path}${path.includes('?') ? '&' : '?'}peek=1`, { body: method === 'GET' ? undefined : { peek: true } });
          assert.ok(!answer.text.includes(secret), `${req}: ${answer.text}`);
        }
      }
      // One user of a database cannot see values that a function kept from another user's request.
      await api.call(`GET /${one}/_design/d/_show/s?secret=ANNS`, { as: 'ann:anns' });
      for (let n = 0; n < 6; n += 1) {
        const peeked = await api.call(`GET /${one}/_design/d/_show/s?peek=1`, { as: 'ben:bens' });
        assert.ok(!peeked.text.includes('ANNS') && !peeked.text.includes(secret), peeked.text);
      }
    });

    it('CVE-2023-45725: a function is not shown how its user signed in', async () => {
      const name = await api.db();
      await api.ok(`PUT /${name}/_security`, { body: { members: {}, admins: {} } });
      const all = 'function (x, req) { return { json: req }; }';
      await api.ok(`PUT /${name}/_design/d`, {
        body: {
          views: { v: { map: 'function (doc) { emit(doc._id); }' } },
          shows: { s: all },
          lists: { l: 'function (head, req) { send(JSON.stringify(req)); }' },
          updates: { u: 'function (doc, req) { return [null, JSON.stringify(req)]; }' },
          filters: { f: 'function (doc, req) { throw({ forbidden: JSON.stringify(req) }); }' },
          rewrites: 'function (req) { return { code: 200, body: JSON.stringify(req) }; }',
        },
      });
      await api.ok(`PUT /${name}/doc`, { body: {} });
      await api.ok(`PUT ${config}/chttpd_auth/x_auth_token`, { body: '"X-Proof"' });
      const { Cookie } = await browser(api, 'ann', 'anns');
      const basic = `Basic ${Buffer.from('ann:anns').toString('base64')}`;
      const secrets = [Cookie.split('=')[1], basic.split(' ')[1], 'anns', 'PROOF', 'PROXY'];
      const more = { 'X-Proof': 'PROOF', 'Proxy-Authorization': 'PROXY', 'X-Visible': 'VISIBLE' };
      for (const send of [{ ...more, Cookie }, { ...more, Authorization: basic }, { ...more, aUtHoRiZaTiOn: basic, cOOkie: `a=b; ${Cookie}` }]) {
        for (const req of ['GET _design/d/_show/s', 'GET _design/d/_list/l/v', 'POST _design/d/_update/u', 'GET _changes?filter=d/f', 'GET _design/d/_rewrite/x']) {
          const [method, path] = req.split(' ');
          const answer = await api.call(`${method} /${name}/${path}`, { as: null, send });
          assert.ok(answer.text.includes('VISIBLE'), `${req}: ${answer.status} ${answer.text}`);
          assert.match(answer.text, /\bann\b/, `${req} is ann's`);
          for (const secret of secrets) assert.ok(!answer.text.includes(secret), `${req} shows ${secret}: ${answer.text}`);
        }
      }
      await api.ok(`DELETE ${config}/chttpd_auth/x_auth_token`);
    });
  },
  // Enough PBKDF2 iterations that the time of a hash is measurable in the response time.
  { env: { SETTEE_CHTTPD_AUTH__ITERATIONS: '20000' } },
);

/** Returns the child processes of a server that are not its own script workers: `settee script-worker`. */
function programsStarted(pid) {
  return children(pid).filter((child) => {
    try {
      return readFileSync(`/proc/${child}/cmdline`, 'latin1') !== 'settee\0script-worker\0';
    } catch {
      return false; // It has ended.
    }
  });
}

/** Returns the running child processes of a process. */
function children(pid) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/stat`, 'latin1').split(') ')[1].split(' ')[1] === String(pid);
      } catch {
        return false;
      }
    });
}

/** Returns the TCP ports on which a process listens. */
function listening(pid) {
  const own = new Set();
  for (const descriptor of readdirSync(`/proc/${pid}/fd`)) {
    try {
      own.add(readlinkSync(`/proc/${pid}/fd/${descriptor}`).match(/^socket:\[(\d+)\]$/)?.[1]);
    } catch {
      continue;
    }
  }
  const ports = [];
  for (const table of ['tcp', 'tcp6']) {
    for (const line of readFileSync(`/proc/${pid}/net/${table}`, 'latin1').split('\n').slice(1)) {
      const fields = line.trim().split(/\s+/);
      if (fields[3] === '0A' && own.has(fields[9])) ports.push(parseInt(fields[1].split(':')[1], 16));
    }
  }
  return ports;
}

function output(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args);
    let text = '';
    child.stdout.on('data', (part) => (text += part));
    child.stderr.on('data', (part) => (text += part));
    child.on('error', reject);
    child.on('close', () => resolve(text));
  });
}
