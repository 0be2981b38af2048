// Code to paste that connects an app with a database.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { obsidianPanel } from '../connect/obsidian.js';
import { CLIENTS, databaseUrl } from '../connect/snippets.js';
import { allowedOrigins, originsForm } from '../connect/origins.js';
import { codeBlock } from '../elements/copy.js';
import { field } from '../elements/field.js';
import { heading } from '../elements/heading.js';
import { notice } from '../elements/states.js';
import { acting, toast } from '../elements/toast.js';
import { session } from '../session.js';
import { grant, isPublic } from '../security.js';

export const title = 'Connect an app';
export const styles = ['styles/home.css'];

export async function show(main, params, { signal, query }) {
  const [databases, users, origins] = await Promise.all([databaseNames(signal), userNames(signal), session.admin ? allowedOrigins(signal) : null]);
  const listed = databases.includes(query.get('db')) || !query.get('db') ? databases : [query.get('db'), ...databases];
  const chosen = { url: api.serverAddress(), db: query.get('db') ?? databases[0] ?? '', user: query.get('user') ?? users[0] ?? session.name, client: query.get('client') ?? 'pouchdb' };
  const code = h('div');
  const rights = h('div');
  const draw = () => put(code, snippet(chosen));
  const database = choice('Database', 'db', chosen.db, listed, 'name of the database', (value) => { chosen.db = value; draw(); checkRights(rights, chosen, signal); });
  const user = choice('User', 'user', chosen.user, users.length > 0 ? users : [session.name], 'name', (value) => { chosen.user = value; draw(); checkRights(rights, chosen, signal); });
  const buttons = CLIENTS.map(({ name, label }) => h('button', { type: 'button', 'aria-pressed': String(name === chosen.client), onclick: () => {
    chosen.client = name;
    for (const each of buttons) each.setAttribute('aria-pressed', String(each.dataset.client === name));
    draw();
  }, dataset: { client: name } }, label));
  draw();
  checkRights(rights, chosen, signal);
  put(main, heading({ title, lead: 'Choose a database and a user, then paste the code into your app. An app should not use the account of an admin.' }),
    listed.length === 0 ? notice('info', h('span', {}, 'There is no database yet. ', h('a', { href: '#/databases' }, 'Make one'), ' first; the code below shows where its name goes.')) : null,
    h('div', { class: 'fields' }, database, user), rights,
    h('div', {}, h('div', { class: 'segments', role: 'group', 'aria-label': 'Client' }, buttons)), code,
    origins ? h('section', { class: 'panel' }, h('h2', {}, 'A web app at another address'), h('p', {}, 'A browser lets a page of another site use this server only if its origin is allowed here.'), originsForm(origins)) : null);
}

/** Names of databases to choose from: those that the user may list, without those of the server. */
async function databaseNames(signal) {
  const all = await api.getOrNull('_all_dbs', { query: { limit: 1000 }, signal });
  return (all ?? []).filter((name) => !name.startsWith('_'));
}

async function userNames(signal) {
  if (!session.admin) return [session.name];
  const found = await api.getOrNull('_users/_all_docs', { query: { start_key: '"org.couchdb.user:"', end_key: '"org.couchdb.user;"', limit: 1000 }, signal });
  return (found?.rows ?? []).map((row) => row.id.slice('org.couchdb.user:'.length));
}

function choice(label, name, value, list, placeholder, changed) {
  const box = list.length > 0 && list.length <= 200
    ? field({ label, name, type: 'select', options: list, value, onchange: () => changed(box.value) })
    : field({ label, name, value, placeholder, oninput: () => changed(box.value) });
  return box;
}

function snippet(chosen) {
  const client = CLIENTS.find(({ name }) => name === chosen.client) ?? CLIENTS[0];
  const filled = { ...chosen, db: chosen.db || 'DATABASE', user: chosen.user || 'NAME' };
  const panel = client.name === 'obsidian' && chosen.db && chosen.user ? obsidianPanel(chosen) : null;
  return h('div', { class: `stack ${panel ? '' : 'tight'}` }, panel, panel ? h('h2', {}, 'Or on the command line') : h('p', { class: 'quiet' }, client.note), codeBlock(client.code(filled), `Code for ${client.label}`),
    h('p', { class: 'hint' }, 'The address of the database: ', h('code', {}, databaseUrl(filled))));
}

/** Says when the chosen user may not use the chosen database, which is the usual reason for a first 403. */
async function checkRights(box, { db, user }, signal) {
  put(box);
  if (!session.admin || !db || user === session.name) return;
  const [security, account] = await Promise.all([
    api.getOrNull(`${api.part(db)}/_security`, { signal }), api.getOrNull(`_users/${api.part(`org.couchdb.user:${user}`)}`, { signal })]).catch(() => []);
  if (!security || !account || signal.aborted) return;
  const named = [security.members, security.admins].some((each) => each?.names?.includes(user) || each?.roles?.some((role) => account.roles?.includes(role)));
  if (named || isPublic(security)) return;
  const give = h('button', { type: 'button', class: 'small', onclick: () => acting(give, async () => {
    await grant(db, user, 'members');
    toast(`${user} may read and write ${db} now.`);
    put(box);
  }) }, `Let ${user} use it`);
  put(box, notice('warning', h('div', { class: 'row' }, h('span', {}, `${user} may not use ${db} yet. `), give, h('a', { href: `#/db/${api.part(db)}/settings` }, 'All rights of the database'))));
}
