// Makes the pictures of docs/console.md: fills a fresh server with the data of a small app and devices that sync it, and takes a picture of
// each screen; those with `dark` a second time as NAME-dark.png.
//   SETTEE_BIN=... node console-screenshots.mjs [FOLDER]      default: ../docs/console
// A picture has at most 150 KB.

import { createRequire } from 'node:module';
import { mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Api } from './harness/rows.js';
import { ADMIN, PASSWORD } from './harness/server.js';
import { Browser } from './harness/console.js';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));
const folder = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '..', 'docs', 'console');
const LARGEST = 150_000;

/** `[file, hash, {options of the window, dark, prepare(page)}]` */
const PICTURES = [
  ['home', '#/'],
  ['databases', '#/databases'],
  ['documents', '#/db/trip'],
  ['document', '#/db/trip/doc/item-tent'],
  ['query', '#/db/trip/query', { prepare: async (page) => {
    await page.getByLabel('Query as JSON').fill('{\n  "selector": {\n    "type": "item",\n    "weight": { "$gt": 300 }\n  },\n  "limit": 20\n}');
    await page.getByRole('button', { name: 'Run' }).click();
    await page.getByText('found;').waitFor();
  } }],
  ['design', '#/db/trip/design/app'],
  ['connect', '#/connect?db=trip&user=ann'],
  ['obsidian', '#/connect?db=recipes&user=ben&client=obsidian', { height: 1100, prepare: async (page) => {
    await page.getByLabel('Address for the devices').fill('https://sync.example.com');
    await page.getByLabel('Password of ben').fill('correct horse');
    await page.getByRole('button', { name: 'Make link and QR code' }).click();
    await page.getByRole('img', { name: 'QR code of the setup link' }).waitFor();
    await page.evaluate(() => { document.querySelector('.device-steps').scrollIntoView({ block: 'end' }); });
  } }],
  ['conflict', '#/conflicts/trip/item-stove', { dark: true }],
  ['sync', '#/sync', { dark: true, height: 900, prepare: async (page) => {
    await page.getByText('Ben\'s laptop').first().waitFor();
    await page.locator('.device').filter({ hasText: 'Ben\'s laptop' }).locator('summary').click();
  } }],
  ['server', '#/server', { dark: true, height: 900, prepare: (page) => page.waitForFunction(() => document.querySelectorAll('figure.chart path').length > 4) }],
  ['settings', '#/server/settings?q=cors'],
  ['narrow', '#/db/trip', { width: 360, height: 740, scheme: 'dark' }],
];

const ITEMS = [['tent', 'Tent', 2400, 'ann', true], ['stove', 'Small stove', 310, 'ben', true], ['gas', 'Gas, 230 g', 380, 'ben', false], ['map', 'Map of the ridge', 90, 'ann', true],
  ['rope', 'Rope, 30 m', 1750, 'carla', false], ['lamp', 'Head lamp', 85, 'ann', true], ['coffee', 'Coffee', 250, 'carla', false], ['pot', 'Pot with lid', 420, 'ben', true],
  ['first-aid', 'First aid', 360, 'carla', true], ['knife', 'Knife', 110, 'ann', false], ['filter', 'Water filter', 340, 'ben', false], ['mats', 'Three mats', 1150, 'carla', true]];

async function prepare(api) {
  for (const name of ['ann', 'ben', 'carla']) {
    await api.ok(`PUT /_users/org.couchdb.user:${name}`, { body: { name, password: 'correct horse', roles: ['family'], type: 'user' } });
  }
  for (const name of ['trip', 'recipes', 'shopping', 'photos']) {
    await api.ok(`PUT /${name}`);
    await api.ok(`PUT /${name}/_security`, { body: { admins: { names: ['ann'], roles: [] }, members: name === 'photos' ? { names: ['ann', 'ben'], roles: [] } : { names: [], roles: ['family'] } } });
  }
  const design = { _id: '_design/app', language: 'javascript', views: {
    by_owner: { map: 'function (doc) {\n  if (doc.type === \'item\') {\n    emit(doc.owner, doc.weight);\n  }\n}', reduce: '_sum' },
    to_pack: { map: 'function (doc) {\n  if (doc.type === \'item\' && !doc.packed) {\n    emit(doc.title, null);\n  }\n}' } },
  filters: { open: 'function (doc) {\n  return !doc.packed;\n}' },
  validate_doc_update: 'function (newDoc) {\n  if (newDoc.type === \'item\' && !newDoc.title) {\n    throw({ forbidden: \'An item needs a title.\' });\n  }\n}' };
  const items = ITEMS.map(([id, title, weight, owner, packed]) => ({ _id: `item-${id}`, type: 'item', title, weight, owner, packed: false, added: '2026-11-28', wanted: packed }));
  await api.ok('POST /trip/_bulk_docs', { body: { docs: [design, ...items] } });
  for (const name of ['recipes', 'shopping', 'photos']) {
    await api.ok(`POST /${name}/_bulk_docs`, { body: { docs: Array.from({ length: name === 'photos' ? 480 : 37 }, (_, n) => ({ _id: `${name}-${n}`, n, note: 'x'.repeat(200) })) } });
  }
  for (const [id, , , , packed] of ITEMS.filter((item) => item[4])) {
    const doc = await api.ok(`GET /trip/item-${id}`);
    delete doc.wanted;
    await api.ok(`PUT /trip/item-${id}`, { body: { ...doc, packed, ...(id === 'stove' ? { weight: 305 } : {}) } });
  }
  const { _rev: rev } = await api.ok('GET /trip/item-tent');
  await api.ok(`PUT /trip/item-tent/how-to-pitch.txt?rev=${rev}`, { send: { 'Content-Type': 'text/plain' }, body: 'Poles first, then the fly sheet.\n'.repeat(40) });
  await api.ok('GET /trip/_design/app/_view/by_owner');
  const stove = await api.ok('GET /trip/item-stove?revs=true');
  const parent = stove._revisions.ids[1];
  delete stove._revisions;
  delete stove._rev;
  await api.ok('POST /trip/_bulk_docs', { body: { new_edits: false, docs: [{ ...stove, weight: 290, title: 'Small stove with lid', packed: false, _rev: '2-c0ffee00c0ffee00c0ffee00c0ffee00', _revisions: { start: 2, ids: ['c0ffee00c0ffee00c0ffee00c0ffee00', parent] } }] } });
  await refuse(api);
  await traffic(api);
}

const locals = [];
const ANDROID = 'Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0';
const LAPTOP = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0';

/** A device of a user, as an app makes it: a PouchDB that says its name. */
function device(api, user, name, agent, db = 'trip') {
  const local = new PouchDB(`pictures-${locals.length}`, { adapter: 'memory' });
  locals.push(local);
  const remote = new PouchDB(`${api.base}/${db}`, { auth: { username: user, password: 'correct horse' }, skip_setup: true, fetch: (url, options) => {
    options.headers.set('X-Settee-Device', name);
    options.headers.set('User-Agent', agent);
    return PouchDB.fetch(url, options);
  } });
  return { local, remote };
}

/** Devices: one that is live, one that is behind, one whose documents are refused. */
async function refuse(api) {
  const [phone, laptop, tablet, old] = [device(api, 'ann', 'Ann\'s phone', ANDROID), device(api, 'ben', 'Ben\'s laptop', LAPTOP), device(api, 'carla', 'Carla\'s tablet', ANDROID), device(api, 'carla', 'Carla\'s old phone', ANDROID, 'shopping')];
  await old.local.replicate.from(old.remote);
  await tablet.local.replicate.from(tablet.remote);
  phone.sync = phone.local.sync(phone.remote, { live: true, retry: true });
  await laptop.local.replicate.from(laptop.remote);
  await laptop.local.put({ _id: 'item-hammock', type: 'item', weight: 480, owner: 'ben' });
  await laptop.local.put({ _id: 'item-axe', type: 'item', title: 'Axe', weight: 900, owner: 'ben', packed: false });
  await laptop.local.replicate.to(laptop.remote);
  await laptop.local.put({ ...(await laptop.local.get('item-hammock')), weight: 490 });
  await laptop.local.replicate.to(laptop.remote);
}

/** Two minutes of requests, more and fewer, so that the pictures over time have something to show. */
async function traffic(api) {
  const end = Date.now() + 120_000;
  for (let round = 0; Date.now() < end; round += 1) {
    const many = 3 + Math.round(12 * Math.abs(Math.sin(round / 9)));
    await Promise.all(Array.from({ length: many }, (_, n) => api.call(n % 12 === 11 ? 'GET /trip/item-none' : 'GET /trip/_all_docs?include_docs=true')));
    if (round % 6 === 0) await api.ok(`PUT /shopping/round-${round}`, { body: { round } });
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}

const api = new Api({ env: { SETTEE_CHTTPD_AUTH__ITERATIONS: '10' } });
await api.start();
const browser = await Browser.start();
try {
  await prepare(api);
  mkdirSync(folder, { recursive: true });
  const all = PICTURES.flatMap(([name, hash, options = {}]) => [[name, hash, options], ...(options.dark ? [[`${name}-dark`, hash, { ...options, scheme: 'dark' }]] : [])]);
  for (const [name, hash, { prepare: before, width = 1200, height = 760, scheme }] of all) {
    const window = await browser.window(api.base, { width, height, scheme });
    await window.signIn(ADMIN, PASSWORD);
    await window.open(hash);
    await before?.(window.page);
    await window.page.evaluate(() => document.activeElement?.blur());
    await window.page.mouse.move(1, 1);
    const path = join(folder, `${name}.png`);
    await window.page.screenshot({ path });
    await window.close();
    const { size } = statSync(path);
    if (size > LARGEST) throw new Error(`${path} has ${size} bytes, more than ${LARGEST}`);
    console.log(`${path}: ${Math.round(size / 1000)} KB`);
  }
} finally {
  await browser.close();
  await Promise.all(locals.map((local) => local.destroy()));
  await api.stop();
}
