// The first page after signing in: what this server is, who you are, and what is left to do.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { allowedOrigins, originsForm } from '../connect/origins.js';
import { codeBlock } from '../elements/copy.js';
import { heading } from '../elements/heading.js';
import { bytes, count, duration, plural, timeAgo } from '../format.js';
import { link } from '../router.js';
import { session } from '../session.js';
import { ownDatabase } from '../users/accounts.js';

export const title = 'Home';
export const styles = ['styles/home.css'];

/** Databases and users are counted up to these numbers. */
const DATABASES = 20_000;
const USERS = 10_000;
const atMost = (number, most) => (number > most ? `more than ${count(most)}` : count(number));

export async function show(main, params, { signal }) {
  const server = await api.get('', { signal });
  if (!session.admin) {
    put(main, heading({ title: `Hello, ${session.name}`, lead: 'You are signed in to a settee server. Your apps work offline and sync here.' }), forUser(await ownDatabases(signal)));
    return;
  }
  const state = await readState(signal);
  put(main, heading({ title: 'Home', lead: `settee ${server.vendor?.version ?? ''}, a sync server that speaks the protocol of CouchDB ${server.version}, at ${api.serverAddress()}.` }),
    facts(state), todo(state));
}

/** What is there already. Everything here is read from the public API. */
async function readState(signal) {
  const [databases, users, origins, system, conflicts, backups] = await Promise.all([
    // Names of the server's own databases begin with _, which is before all letters.
    api.get('_all_dbs', { query: { start_key: '"a"', limit: DATABASES + 1 }, signal }),
    api.getOrNull('_users/_all_docs', { query: { start_key: '"org.couchdb.user:"', end_key: '"org.couchdb.user;"', limit: USERS + 1 }, signal }),
    allowedOrigins(signal),
    api.getOrNull('_node/_local/_system', { signal }),
    api.getOrNull('_conflicts', { query: { limit: 1 }, signal }),
    api.getOrNull('_node/_local/_backups', { signal }),
  ]);
  return { databases, users: users?.rows.length ?? 0, origins: origins ?? [], system, conflicts, backups };
}

function facts({ databases, users, system, conflicts }) {
  const fact = (label, value, href) => h('div', { class: 'fact' }, h('dt', {}, label), h('dd', {}, href ? h('a', { href }, value) : value));
  const memory = system?.memory ? Object.values(system.memory).find((value) => typeof value === 'number') : null;
  return h('dl', { class: 'fact-row' },
    fact('Databases', atMost(databases.length, DATABASES), '#/databases'), fact('Users', atMost(users, USERS), '#/users'),
    conflicts ? fact('Documents in conflict', count(conflicts.total ?? 0), '#/conflicts') : null,
    system?.uptime ? fact('Running for', duration(system.uptime * 1000)) : memory ? fact('Memory', bytes(memory)) : null);
}

/** One step: whether it is done, why it matters, and the button or command for it. */
const step = ({ done, title: name, text, body }) => h('li', { class: `step ${done === true ? 'done' : done === false ? '' : 'unknown'}` },
  h('span', { class: 'mark', role: 'img', 'aria-label': done === true ? 'Done' : done === false ? 'To do' : 'Not known' }, done === true ? '✓' : ''),
  h('details', { open: done === false }, h('summary', {}, h('strong', {}, name)), h('div', { class: 'stack tight step-body' }, text ? h('p', {}, text) : null, body ?? null)));

function todo(state) {
  const steps = [databaseStep(state), userStep(state), appStep(state), tlsStep(), backupStep(state)];
  const left = steps.filter(({ done }) => done === false).length;
  return h('section', { class: 'panel' }, h('h2', {}, left > 0 ? `What is left to do: ${left}` : 'Everything is set up'), h('ol', { class: 'steps' }, steps.map(step)));
}

const databaseStep = ({ databases }) => ({
  done: databases.length > 0,
  title: 'Make a database',
  text: databases.length > 0 ? `There ${databases.length === 1 ? 'is' : 'are'} ${plural(databases.length, 'database')}.` : 'A database holds the documents of an app. Devices sync with it.',
  body: h('div', { class: 'row' }, h('a', { class: 'button', href: databases.length > 0 ? '#/databases' : '#/databases?new=1' }, databases.length > 0 ? 'Show the databases' : 'Make a database')),
});

const userStep = ({ users }) => ({
  done: users > 0,
  title: 'Make an account for the app',
  text: users > 0 ? `There ${users === 1 ? 'is' : 'are'} ${plural(users, 'account')} besides the admins.` : 'An admin can do everything. An app should sign in as somebody who can do less.',
  body: h('div', { class: 'row' }, h('a', { class: 'button', href: users > 0 ? '#/users' : '#/users?new=1' }, users > 0 ? 'Show the users' : 'Make a user')),
});

const appStep = ({ databases, origins }) => ({
  done: undefined,
  title: 'Connect an app',
  text: 'Code to paste for PouchDB, RxDB, nano and curl, and a link that sets up Obsidian.',
  body: h('div', { class: 'stack' }, h('div', { class: 'row' }, h('a', { class: 'button', href: '#/connect' }, databases.length > 0 ? 'Show the code' : 'Look at the code')),
    h('details', {}, h('summary', {}, 'The app is a web page at another address'), originsForm(origins))),
});

function tlsStep() {
  const secure = location.protocol === 'https:';
  const local = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);
  return {
    done: secure,
    title: 'Encrypt the connections (TLS)',
    text: secure ? 'You reached this page with TLS.' : `You reached this page without TLS${local ? ', which is fine on this machine' : ''}. Before other machines use the server, start it with a certificate, or put a proxy with one in front of it.`,
    body: secure ? null : h('div', { class: 'stack tight' }, codeBlock('settee --tls-cert /etc/settee/fullchain.pem --tls-key /etc/settee/key.pem --tls-bind 0.0.0.0:443', 'Command for TLS'),
      h('p', { class: 'hint' }, 'It can also get a certificate by itself: see TLS in docs/configuration.md.')),
  };
}

function backupStep({ backups }) {
  const last = backups?.backups?.[0];
  return {
    done: last ? true : backups?.folder ? false : undefined,
    title: 'Make backups',
    text: last ? null : 'A backup is one file with everything. It is made while the server runs.',
    body: last ? h('p', {}, 'The last one was made ', timeAgo(last.at), '.') : h('div', { class: 'stack tight' },
      backups?.folder ? h('div', { class: 'row' }, h('a', { class: 'button', href: '#/server/backups' }, 'Make one now')) : null,
      codeBlock('settee backup --data /var/lib/settee /var/backups/settee', 'Command for a backup')),
  };
}

/** The databases that the user's devices sync with, and his own one; nobody but admins may list all. */
async function ownDatabases(signal) {
  const found = await api.getOrNull('_session/devices', { signal });
  const names = new Set((found?.devices ?? []).flatMap((device) => Object.keys(device.databases ?? {})));
  const own = ownDatabase(session.name);
  if (!names.has(own) && (await api.getOrNull(api.part(own), { signal }))) names.add(own);
  return [...names].sort();
}

const databaseLinks = (names) => h('ul', { class: 'plain-list' }, names.slice(0, 20).map((name) => h('li', {}, h('a', { class: 'break', href: link('db', name) }, name))));

/** What somebody who is not an admin can do here. */
const forUser = (databases) => h('div', { class: 'panels' },
  h('section', { class: 'panel' }, h('h2', {}, 'Your databases'), databases.length > 0 ? databaseLinks(databases) : null, h('p', {}, databases.length > 0 ? 'Open others that you have a right to by their names.' : 'Open a database that you have a right to by its name.'), h('div', { class: 'row' }, h('a', { class: 'button', href: '#/databases' }, 'Open a database'))),
  h('section', { class: 'panel' }, h('h2', {}, 'Your devices'), h('p', {}, 'See where you are signed in, and sign out there.'), h('div', { class: 'row' }, h('a', { class: 'button', href: `#/users/${encodeURIComponent(session.name)}` }, 'Show your devices'))),
  h('section', { class: 'panel' }, h('h2', {}, 'Connect an app'), h('p', {}, 'Code to paste for PouchDB, RxDB, nano and curl, and a link that sets up Obsidian.'), h('div', { class: 'row' }, h('a', { class: 'button', href: '#/connect' }, 'Show the code'))));
