// A server with something to see on each screen of the console, and the address of each screen.

import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const PouchDB = require('pouchdb-9');
PouchDB.plugin(require('pouchdb-adapter-memory-9'));

/** What a page must show as text, wherever it comes from. */
export const SCRIPT = '<script>globalThis.owned = 1</script><img src=x onerror="globalThis.owned = 1">';

const part = encodeURIComponent;
const USER = `u ${SCRIPT}`;

/**
 * Fills a server of a test (`Api`): names, ids, values, reasons and devices contain markup. Resolves to the screens:
 * `[name, hash, {text: what the screen shows of it}]`.
 */
export async function fillScreens(api) {
  await api.ok(`PUT /_users/${part(`org.couchdb.user:${USER}`)}`, { body: { name: USER, password: 'pass', roles: [SCRIPT], type: 'user' } });
  await api.ok('PUT /notes');
  await api.ok('PUT /notes/_security', { body: { admins: { names: [], roles: ['_admin'] }, members: { names: [USER], roles: [SCRIPT] } } });
  const id = `d ${SCRIPT}`;
  const design = `_design/${part(`app ${SCRIPT}`)}`;
  await api.ok(`PUT /notes/${part(id)}`, { body: { [SCRIPT]: SCRIPT, list: [SCRIPT, 1], n: 1 } });
  await api.ok('POST /notes/_bulk_docs', { body: { docs: Array.from({ length: 60 }, (_, n) => ({ _id: `long-id-${'x'.repeat(100)}-${n}`, n, text: 'long text '.repeat(40) })) } });
  await api.ok(`PUT /notes/${design}`, { body: { views: { [SCRIPT]: { map: `function (doc) { emit(doc._id, ${JSON.stringify(SCRIPT)}); }` } }, filters: { [SCRIPT]: 'function () { return true; }' } } });
  await api.ok('PUT /notes/_design/rules', { body: { validate_doc_update: `function (doc) { if (doc.secret) throw {forbidden: ${JSON.stringify(SCRIPT)}}; }` } });
  await api.ok('POST /notes/_index', { body: { index: { fields: [SCRIPT] }, name: SCRIPT } });
  await conflict(api, id);
  await device(api);
  await api.ok(`PUT /_replicator/${part(`r ${SCRIPT}`)}`, { body: { source: `http://127.0.0.1:1/${part(SCRIPT)}`, target: 'notes', continuous: true } });
  await api.call('GET /_all_dbs', { as: `${USER}:wrong` });
  await api.ok('PUT /_node/_local/_config/cors/origins', { body: JSON.stringify(`https://app.example.com,${SCRIPT.replaceAll(' ', '')}`) }).catch(() => {});
  await api.ok(`PUT /_node/_local/_config/vendor/${part('own')}`, { body: JSON.stringify(SCRIPT) });
  const view = `${part(`app ${SCRIPT}`)}/${part(SCRIPT)}`;
  return [
    ['home', '#/'],
    ['connect', `#/connect?db=notes&user=${part(USER)}`],
    ['connect: Obsidian', `#/connect?db=notes&user=${part(USER)}&client=obsidian`],
    ['databases', '#/databases'],
    ['documents', '#/db/notes', { text: id }],
    ['documents as JSON', '#/db/notes?as=json', { text: id }],
    ['document', `#/db/notes/doc/${part(id)}`, { text: id }],
    ['new document', '#/db/notes/new'],
    ['query', '#/db/notes/query'],
    ['designs', '#/db/notes/design', { text: SCRIPT }],
    ['design', `#/db/notes/design/${part(`app ${SCRIPT}`)}`, { text: SCRIPT }],
    ['view', `#/db/notes/view/${view}`, { text: SCRIPT }],
    ['import', '#/db/notes/import'],
    ['database', '#/db/notes/settings'],
    ['conflicts', '#/conflicts', { text: id }],
    ['conflicts of a database', '#/conflicts/notes', { text: id }],
    ['conflict', `#/conflicts/notes/${part(id)}`, { text: id }],
    ['sync', '#/sync', { text: SCRIPT }],
    ['replications', '#/sync/replications', { text: SCRIPT }],
    ['new replication', '#/replication/new'],
    ['replication', `#/replication/${part(`r ${SCRIPT}`)}`, { text: SCRIPT }],
    ['users', '#/users?new=1', { text: USER }],
    ['user', `#/users/${part(USER)}`, { text: USER }],
    ['server', '#/server'],
    ['settings', '#/server/settings?q=vendor', { text: 'vendor' }],
    ['log', '#/server/logs'],
    ['audit', '#/server/audit', { text: USER }],
    ['backups', '#/server/backups'],
  ];
}

/** A second version of a document, made elsewhere. */
async function conflict(api, id) {
  const doc = await api.ok(`GET /notes/${part(id)}?revs=true`);
  await api.ok(`PUT /notes/${part(id)}`, { body: { _rev: doc._rev, [SCRIPT]: `mine ${SCRIPT}`, list: [SCRIPT], n: 2 } });
  const [parent] = doc._revisions.ids;
  const other = 'c0ffee00c0ffee00c0ffee00c0ffee00';
  await api.ok('POST /notes/_bulk_docs', { body: { new_edits: false, docs: [{ _id: id, _rev: `2-${other}`, _revisions: { start: 2, ids: [other, parent] }, [SCRIPT]: `theirs ${SCRIPT}`, list: [1], n: 3 }] } });
}

/** A device that was refused a document, and is behind. */
async function device(api) {
  const local = new PouchDB(`screens-${Date.now()}`, { adapter: 'memory' });
  const remote = new PouchDB(`${api.base}/notes`, {
    auth: { username: USER, password: 'pass' }, skip_setup: true,
    fetch: (url, options) => {
      options.headers.set('X-Settee-Device', SCRIPT);
      return PouchDB.fetch(url, options);
    },
  });
  await local.put({ _id: `s ${SCRIPT}`, secret: true });
  await local.sync(remote);
  await local.put({ ...(await local.get(`s ${SCRIPT}`)), again: true });
  await local.replicate.to(remote);
  await local.destroy();
  await api.ok('PUT /notes/later', { body: {} });
}
