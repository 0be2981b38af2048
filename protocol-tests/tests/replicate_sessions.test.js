// The sign-ins of replications on another server: all jobs of one user share one session.

import { describe, it, before, after, assert, Api } from '../harness/rows.js';
import { ReverseProxy } from '../harness/reverse_proxy.js';
import { ADMIN, PASSWORD, external, until } from '../harness/server.js';

/** A proxy before the other server that counts sign-ins, and refuses the first ones. */
class CountingProxy extends ReverseProxy {
  constructor(port, refusals) {
    super(port);
    Object.assign(this, { refusals, signIns: 0, basic: 0 });
  }

  pass(from, to) {
    if (from.headers.authorization) this.basic += 1;
    if (from.method === 'POST' && from.url === '/_session') {
      this.signIns += 1;
      if (this.signIns <= this.refusals) {
        to.writeHead(429, { 'Content-Type': 'application/json' }).end('{"error":"too_many_requests","reason":"later"}');
        return;
      }
    }
    super.pass(from, to);
  }
}

describe('sessions of replications', { skip: !!external }, () => {
  const env = { SETTEE_REPLICATOR__ALLOW_PRIVATE: 'true', SETTEE_REPLICATOR__INTERVAL: '1000' };
  const [api, other] = [new Api({ env }), new Api({ env })];
  let proxy;
  before(async () => {
    await Promise.all([api.start(), other.start()]);
    proxy = await new CountingProxy(other.server.port, 2).start();
  });
  after(async () => {
    proxy.listener.close();
    proxy.listener.closeAllConnections();
    await Promise.all([api.stop(), other.stop()]);
  });

  it('40 jobs sign in once, and wait for a server that has too much to do', async () => {
    const pairs = await Promise.all(Array.from({ length: 40 }, async () => [await other.db(), await api.db()]));
    await Promise.all(pairs.map(([source]) => other.ok(`PUT /${source}/doc`, { body: { n: 1 } })));
    const url = (name) => `http://${ADMIN}:${encodeURIComponent(PASSWORD)}@127.0.0.1:${proxy.port}/${name}`;
    const docs = pairs.map(([source, target]) => ({ _id: target, source: url(source), target, continuous: true }));
    await api.ok('POST /_replicator/_bulk_docs', { body: { docs } });
    for (const [, target] of pairs) {
      await until(`the document in ${target}`, async () => (await api.call(`GET /${target}/doc`)).status === 200);
    }
    assert.deepEqual({ signIns: proxy.signIns, basic: proxy.basic }, { signIns: 3, basic: 0 });
    const crashed = (await api.ok('GET /_scheduler/docs?limit=100')).docs.filter((job) => job.error_count > 0);
    assert.deepEqual(crashed, []);
  });

  it('a document that is refused with 401 does not end the session', async () => {
    const [source, target] = [await api.db(), await other.db()];
    const rule = "function (doc) { if (/^no/.test(doc._id)) throw ({ unauthorized: 'not this one' }); }";
    await other.ok(`PUT /${target}/_design/rule`, { body: { validate_doc_update: rule } });
    const file = { content_type: 'text/plain', data: Buffer.from('text').toString('base64') };
    const docs = Array.from({ length: 20 }, (_, n) => ({ _id: `${n % 2 ? 'no' : 'yes'}${n}`, _attachments: { file } }));
    await api.ok(`POST /${source}/_bulk_docs`, { body: { docs } });
    const before = proxy.signIns;
    const url = `http://${ADMIN}:${encodeURIComponent(PASSWORD)}@127.0.0.1:${proxy.port}/${target}`;
    const { history: [session] } = await api.ok('POST /_replicate', { body: { source, target: url } });
    assert.deepEqual([session.docs_written, session.doc_write_failures], [10, 10]);
    assert.equal(proxy.signIns, before, 'no other sign-in');
  });
});
