// Code that connects an app: complete, for the chosen server, database and user. The password is never written into it.

const quote = (text) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
/** A word of a shell, quoted where it must be. */
const shell = (text) => (/^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The address of a database. */
export const databaseUrl = ({ url, db }) => `${url}/${encodeURIComponent(db)}`;

const pouchdb = (chosen) => `// npm install pouchdb
import PouchDB from 'pouchdb';

const local = new PouchDB(${quote(chosen.db)});
const remote = new PouchDB(${quote(databaseUrl(chosen))}, {
  auth: { username: ${quote(chosen.user)}, password: 'PASSWORD' },
});

// Works offline; syncs in both directions whenever there is a network.
local.sync(remote, { live: true, retry: true })
  .on('change', ({ direction, change }) => console.log(direction, change.docs.length))
  .on('error', (error) => console.error(error));

await local.put({ _id: new Date().toISOString(), text: 'hello' });`;

const rxdb = (chosen) => `// npm install rxdb
import { replicateCouchDB, getFetchWithCouchDBAuthorization } from 'rxdb/plugins/replication-couchdb';

const replication = replicateCouchDB({
  replicationIdentifier: ${quote(`settee-${chosen.db}`)},
  collection, // an RxCollection of your app
  url: ${quote(`${databaseUrl(chosen)}/`)},
  fetch: getFetchWithCouchDBAuthorization(${quote(chosen.user)}, 'PASSWORD'),
  live: true,
  pull: {},
  push: {},
});
replication.error$.subscribe((error) => console.error(error));`;

const nano = (chosen) => `// npm install nano
import Nano from 'nano';

const nano = Nano({
  url: ${quote(chosen.url)},
  requestDefaults: { auth: { username: ${quote(chosen.user)}, password: 'PASSWORD' } },
});
const db = nano.use(${quote(chosen.db)});

await db.insert({ text: 'hello' }, 'first');
console.log(await db.get('first'));`;

const curl = (chosen) => {
  const user = shell(chosen.user);
  const url = databaseUrl(chosen);
  return `# curl asks for the password
curl -u ${user} -X PUT ${shell(`${url}/first`)} -H 'Content-Type: application/json' -d '{"text":"hello"}'
curl -u ${user} ${shell(`${url}/first`)}
curl -u ${user} ${shell(`${url}/_changes?include_docs=true`)}`;
};

const obsidian = (chosen) => `# On the machine of the server. It makes the account and the vault, and prints a link and a QR code
# that set up Obsidian's plugin "Self-hosted LiveSync" on each device.
settee livesync --user ${shell(chosen.user)} --vault ${shell(chosen.db)} --url ${shell(chosen.url)} --qr`;

/** The kinds of clients: `{name, label, code(chosen), note}`; `chosen` is `{url, db, user}`. */
export const CLIENTS = [
  { name: 'pouchdb', label: 'PouchDB', code: pouchdb, note: 'For browsers, node, Electron and React Native.' },
  { name: 'rxdb', label: 'RxDB', code: rxdb, note: 'RxDB replicates one collection with one database.' },
  { name: 'nano', label: 'nano', code: nano, note: 'For a backend in node that reads and writes directly.' },
  { name: 'curl', label: 'curl', code: curl, note: 'To try it in a terminal.' },
  { name: 'obsidian', label: 'Obsidian', code: obsidian, note: 'Syncs notes with the plugin Self-hosted LiveSync.' },
];
