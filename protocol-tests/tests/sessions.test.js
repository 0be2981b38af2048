// Authentication by cookie and Basic: CouchDB docs `api/server/authn.rst`.

import { suite, it, assert } from '../harness/rows.js';
import { ADMIN, PASSWORD } from '../harness/server.js';

const cookieOf = (answer) => answer.headers['set-cookie']?.[0] ?? '';

suite('sessions', (api) => {
  api.rows('_session', [
    {
      name: 'anonymous',
      req: 'GET /_session',
      as: null,
      status: 200,
      like: { ok: true, userCtx: { name: null, roles: [] }, info: { authentication_handlers: Array, authenticated: undefined } },
    },
    { name: 'Basic authentication', req: 'GET /_session', status: 200, like: { ok: true, userCtx: { name: ADMIN, roles: ['_admin'] }, info: { authenticated: 'default' } } },
    { name: 'a wrong password', req: 'GET /_session', as: `${ADMIN}:wrong`, status: 401, error: 'unauthorized', reason: 'Name or password is incorrect.' },
    { name: 'an unknown name', req: 'GET /_session', as: 'nobody:x', status: 401, error: 'unauthorized', reason: 'Name or password is incorrect.' },
    { name: 'HEAD', req: 'HEAD /_session', as: null, status: 200, text: '' },
    { name: 'signing in with JSON', req: 'POST /_session', as: null, body: { name: ADMIN, password: PASSWORD }, status: 200, like: { ok: true, name: ADMIN, roles: ['_admin'] }, headers: { 'Set-Cookie': (got) => /^AuthSession=[^;]+; .*HttpOnly/i.test(got[0]) && /; Version=1; (.*; )?Path=\//i.test(got[0]) } },
    { name: 'signing in with a form', req: 'POST /_session', as: null, body: `name=${encodeURIComponent(ADMIN)}&password=${encodeURIComponent(PASSWORD)}`, send: { 'Content-Type': 'application/x-www-form-urlencoded' }, status: 200, like: { ok: true, name: ADMIN } },
    { name: 'username instead of name', req: 'POST /_session', as: null, body: { username: ADMIN, password: PASSWORD }, status: 200, like: { name: ADMIN } },
    { name: 'a wrong password clears the cookie', req: 'POST /_session', as: null, body: { name: ADMIN, password: 'no' }, status: 401, error: 'unauthorized', reason: 'Name or password is incorrect.', headers: { 'Set-Cookie': (got) => /^AuthSession=;/.test(got[0]) } },
    { name: 'without a name', req: 'POST /_session', as: null, body: { password: 'x' }, status: 400, error: 'bad_request', reason: 'request body must contain a username' },
    { name: 'two different names', req: 'POST /_session', as: null, body: { name: 'a', username: 'b', password: 'x' }, status: 400, error: 'bad_request', reason: 'request body contains different usernames' },
    { name: 'another content type', req: 'POST /_session', as: null, body: 'x', send: { 'Content-Type': 'text/plain' }, status: 415, error: 'bad_content_type' },
    { name: 'invalid JSON', req: 'POST /_session', as: null, body: '{', send: { 'Content-Type': 'application/json' }, status: 400, error: 'bad_request' },
    { name: 'members of the wrong type', req: 'POST /_session', as: null, body: { name: 5, password: [] }, status: 400, couch: 500, error: 'bad_request' },
    { name: 'next redirects', req: 'POST /_session?next=/somewhere', as: null, body: { name: ADMIN, password: PASSWORD }, status: 302, headers: { Location: /\/somewhere$/ } },
    { name: 'signing out', req: 'DELETE /_session', as: null, status: 200, like: { ok: true }, headers: { 'Set-Cookie': (got) => /^AuthSession=;/.test(got[0]) } },
    { name: 'PUT', req: 'PUT /_session', as: null, body: {}, status: 405, error: 'method_not_allowed', headers: { Allow: 'GET,HEAD,POST,DELETE' } },
    { name: 'basic=true requires authentication', req: 'GET /_session?basic=true', as: null, status: 401, error: 'unauthorized', reason: 'Please login.' },
  ]);

  it('a cookie authenticates like Basic, and a forged cookie is rejected', async () => {
    const signedIn = await api.call('POST /_session', { as: null, body: { name: ADMIN, password: PASSWORD } });
    const cookie = cookieOf(signedIn).split(';')[0];
    const session = await api.ok('GET /_session', { as: null, send: { Cookie: cookie } });
    assert.deepEqual(session.userCtx, { name: ADMIN, roles: ['_admin'] });
    assert.equal(session.info.authenticated, 'cookie');
    const name = `c${Date.now()}`;
    assert.equal((await api.call(`PUT /${name}`, { as: null, send: { Cookie: cookie } })).status, 201);
    assert.equal((await api.call(`DELETE /${name}`, { as: null, send: { Cookie: cookie } })).status, 200);
    for (const [forged, status] of [[`${cookie}x`, 401], [`${cookie.slice(0, -6)}AAAAAA`, 401], ['AuthSession=YWRtaW46NUVGRkZGRkY6AAAA', 401], ['AuthSession=', 401], ['AuthSession=%%%', 400]]) {
      const answer = await api.call(`PUT /${name}`, { as: null, send: { Cookie: forged } });
      assert.equal(answer.status, status, `${forged}: ${answer.text}`);
      assert.ok(!JSON.stringify((await api.call('GET /_session', { as: null, send: { Cookie: forged } })).json ?? {}).includes('"_admin"'));
    }
  });

  it('malformed Authorization headers never cause a server error', async () => {
    for (const [value, status] of [['Basic', 401], ['Basic !!!', 400], ['Basic YQ==', 401], ['Bearer x', 401], ['Digest x', 401], [`Basic ${Buffer.from([0xff, 0xfe]).toString('base64')}`, 401], ['x'.repeat(5000), 401]]) {
      const answer = await api.call('PUT /neverthere', { as: null, send: { Authorization: value } });
      assert.equal(answer.status, status, `${value.slice(0, 20)}: ${answer.text}`);
    }
  });
});
