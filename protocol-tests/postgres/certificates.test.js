// Certificates by ACME on several nodes of one PostgreSQL: one order for all, an authority that asks any of them, and the same
// certificate on each. Run with `protocol-tests/run.sh postgres`.

import tls from 'node:tls';
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach } from 'node:test';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, it, assert, Api } from '../harness/rows.js';
import { binary, freePort, until } from '../harness/server.js';
import { Authority } from '../harness/authority.js';

const run = promisify(execFile);
const hour = 3_600_000;

assert.ok(process.env.SETTEE_TEST_STORE, 'SETTEE_TEST_STORE names no PostgreSQL: run protocol-tests/run.sh postgres');

describe('certificates of several nodes', () => {
  let folder;
  let authority;
  let nodes;

  /** A node that is not started yet. */
  async function node() {
    const port = await freePort();
    const config = join(folder, `${nodes.length}.toml`);
    const settings = `
      ca_file = ${JSON.stringify(join(folder, 'ca.pem'))}
      [ssl]
      acme_domains = "sync.example.com, b.example"
      acme_directory = "${authority.directory}"
      acme_agree = true
      bind_address = "127.0.0.1"
      port = ${port}`;
    writeFileSync(config, settings);
    nodes.push({ port, api: new Api({ args: ['--config', config], schema: nodes[0]?.api.server.schema }) });
    return nodes.at(-1);
  }

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'settee-acme-'));
    authority = await new Authority(0).start();
    writeFileSync(join(folder, 'ca.pem'), authority.ca.root);
    nodes = [];
    await node();
    await node();
    // Each validation asks the next node, as behind a balancer: for one of two names, that is one that does not order.
    let turn = 0;
    Object.defineProperty(authority, 'port', { get: () => nodes[turn++ % 2].port });
  });
  afterEach(async () => {
    for (const { api } of nodes) await api.stop();
    await authority.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  /** Starts all; the authority takes no order before any of them can be asked. */
  async function start() {
    let up;
    const all = new Promise((resolve) => (up = resolve));
    authority.gate = () => all;
    await Promise.all(nodes.map(({ api }) => api.start()));
    up();
  }

  /** The serial number of the certificate that a node shows, or null. */
  const serial = ({ port }) => new Promise((resolve) => {
    const socket = tls.connect({ host: '127.0.0.1', port, servername: 'b.example', ca: authority.ca.root }, () => {
      resolve(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
    socket.on('error', () => resolve(null));
  });
  /** Waits until all nodes show the same one, and not `old`. */
  const certificate = (old = null) => until('a certificate on all nodes', async () => {
    const [first, ...others] = await Promise.all(nodes.map(serial));
    return first !== old && others.every((one) => one === first) && first;
  }, 60);

  it('are ordered once, validated on any node and used by all', async () => {
    await start();
    const first = await certificate();
    assert.deepEqual(authority.checks.map(({ wrong }) => wrong), [null, null]);
    assert.equal(authority.orders.length, 1);
    assert.equal(authority.accounts.size, 1);

    // A node that starts later asks nobody; nor does one that starts again.
    const { requests } = authority;
    await (await node()).api.start();
    await nodes[0].api.server.restart('SIGKILL');
    assert.equal(await certificate(), first);
    assert.equal(authority.requests, requests);

    // Nothing is in the folder of a node, in its log or in a backup.
    for (const { api } of nodes) {
      assert.ok(!existsSync(join(api.server.folder, 'data', 'acme')));
      assert.doesNotMatch(api.server.log(), /PRIVATE KEY|panicked/);
    }
    const [address, schema] = [process.env.SETTEE_TEST_STORE, nodes[0].api.server.schema];
    const file = join(folder, 'backup');
    await run(binary(), ['backup', '--store', `${address}${address.includes('?') ? '&' : '?'}schema=${schema}`, file]);
    assert.ok(!readFileSync(file).includes('PRIVATE KEY'));
  });

  it('are renewed by one node for all', async () => {
    // Two thirds of the life of the first one end in 6 seconds.
    authority.dates.push(() => ({ from: new Date(Date.now() - 10 * hour + 6000), until: new Date(Date.now() + 5 * hour + 6000) }));
    await start();
    // The second order is taken when all nodes have shown the first certificate.
    let seen;
    const shown = new Promise((resolve) => (seen = resolve));
    authority.gate = () => (authority.orders.length > 0 ? shown : undefined);
    const first = await certificate();
    seen();
    assert.notEqual(await certificate(first), first);
    assert.equal(authority.orders.length, 2);
    assert.equal(authority.accounts.size, 1);
    assert.deepEqual(authority.checks.map(({ wrong }) => wrong), [null, null, null, null]);
  });
});
