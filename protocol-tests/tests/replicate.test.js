// `settee replicate`: between two servers, and into the data folder of a stopped one.

import { test, before, after } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Server, binary, external, noFolder, ADMIN, PASSWORD } from '../harness/server.js';

const here = new Server();
const there = new Server();

before(async () => {
  await Promise.all([here.start(), there.start()]);
});

after(async () => {
  await Promise.all([here.stop(), there.stop()]);
});

/** Runs `settee replicate`; resolves to the exit code and what it printed. */
function replicate(...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(binary(), ['replicate', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, err] = ['', ''];
    child.stdout.on('data', (data) => (out += data));
    child.stderr.on('data', (data) => (err += data));
    child.on('error', reject);
    child.on('exit', (code) => resolve({ code, out, err }));
  });
}

const auth = `Basic ${Buffer.from(`${ADMIN}:${PASSWORD}`).toString('base64')}`;

async function ask(server, method, path, body, headers = {}) {
  const answer = await fetch(`${server.base}${path}`, {
    method,
    headers: { authorization: auth, ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    body: body === undefined ? undefined : Buffer.isBuffer(body) ? body : JSON.stringify(body),
  });
  return { status: answer.status, body: await answer.json() };
}

/** All leaves of a database with their bodies and the digests of their attachments. */
async function leaves(server, database) {
  const { body } = await ask(server, 'GET', `/${database}/_changes?style=all_docs`);
  const docs = body.results.flatMap(({ id, changes }) => changes.map(({ rev }) => ({ id, rev })));
  const found = await ask(server, 'POST', `/${database}/_bulk_get?revs=true`, { docs });
  const all = found.body.results.flatMap(({ docs }) => docs.map(({ ok }) => ok));
  return all.sort((a, b) => (a._id + a._rev < b._id + b._rev ? -1 : 1));
}

/** Fills a database: conflicts, deletions, attachments, a design document, odd ids. */
async function fill(server, database) {
  assert.equal((await ask(server, 'PUT', `/${database}`)).status, 201);
  const docs = [];
  for (let at = 0; at < 300; at++) docs.push({ _id: `doc ${at}/ä?#%`, _rev: `1-${'a'.repeat(31)}0`, at });
  docs.push({ _id: 'conflict', _rev: '2-b', _revisions: { start: 2, ids: ['b', 'a'] }, side: 'b' });
  docs.push({ _id: 'conflict', _rev: '2-c', _revisions: { start: 2, ids: ['c', 'a'] }, side: 'c' });
  docs.push({ _id: 'gone', _rev: '2-b', _revisions: { start: 2, ids: ['b', 'a'] }, _deleted: true });
  docs.push({ _id: '_design/app', _rev: '1-x', views: { all: { map: 'function (doc) { emit(doc._id); }' } } });
  const written = await ask(server, 'POST', `/${database}/_bulk_docs`, { docs, new_edits: false });
  assert.deepEqual([written.status, written.body], [201, []]);
  const text = Buffer.from('compressible '.repeat(10_000));
  const content = randomBytes(3 << 20);
  let rev = (await ask(server, 'PUT', `/${database}/attached/text.txt`, text, { 'content-type': 'text/plain' })).body.rev;
  rev = (await ask(server, 'PUT', `/${database}/attached/random%2Fbytes?rev=${rev}`, content, { 'content-type': 'application/x' }))
    .body.rev;
  assert.match(rev, /^2-/);
  return content;
}

test('a database is copied with all leaves, attachments and odd ids', { skip: external !== null }, async () => {
  const content = await fill(there, 'one');
  const [source, target] = [`${there.address}/one`, `${here.address}/one`];
  const first = await replicate('--create-target', source, target);
  assert.deepEqual([first.code, first.err], [0, '']);
  assert.match(first.out, /^30\d revisions copied, 0 were there already, 0 refused\n/);
  assert.deepEqual(await leaves(here, 'one'), await leaves(there, 'one'));
  const answer = await fetch(`${here.base}/one/attached/random%2Fbytes`, { headers: { authorization: auth } });
  const digest = (bytes) => createHash('md5').update(bytes).digest('hex');
  assert.equal(digest(Buffer.from(await answer.arrayBuffer())), digest(content));
  const again = await replicate(source, target);
  assert.deepEqual([again.code, again.out], [0, '0 revisions copied, 0 were there already, 0 refused\nnothing was new\n']);
});

test('a database is copied into a data folder and back', { skip: external !== null || noFolder }, async () => {
  const server = new Server();
  await server.start();
  await server.kill();
  try {
    const data = join(server.folder, 'data');
    await ask(there, 'PUT', '/two');
    await ask(there, 'PUT', '/two/a', { x: 1 });
    const into = await replicate('--create-target', '--data', data, `${there.address}/two`, 'two');
    assert.deepEqual([into.code, into.err], [0, '']);
    const back = await replicate('--create-target', '--data', data, 'two', `${here.address}/two`);
    assert.deepEqual([back.code, back.err], [0, '']);
    assert.deepEqual(await leaves(here, 'two'), await leaves(there, 'two'));
  } finally {
    server.remove();
  }
});

test('what cannot be done is said, without the password', { skip: external !== null }, async () => {
  const wrong = `${there.base.replace('//', '//admin:hunter2@')}/one`;
  for (const [args, code, text] of [
    [[`${there.address}/none`, `${here.address}/one`], 1, /could not open http:.*\/none\//],
    [[wrong, `${here.address}/one`], 1, /unauthorized/],
    [['ftp://a/b', 'c'], 1, /neither http/],
    [['No', 'c'], 1, /Only lowercase/],
    [['--data', '/none', 'a', `${here.address}/one`], 1, /^settee: \/none is not a settee data folder: .*\nFor a database on a server, give its URL: /],
    [['a'], 2, /TARGET/],
  ]) {
    const said = await replicate(...args);
    assert.equal(said.code, code, said.err);
    assert.match(said.err, text);
    assert.ok(!said.err.includes('hunter2'), said.err);
  }
});
