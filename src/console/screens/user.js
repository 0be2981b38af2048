// One account: roles, password, second factor, devices, own database, lock. A user who is no admin sees his own.

import { h, put } from '../dom.js';
import * as api from '../api.js';
import { heading } from '../elements/heading.js';
import { failure, loading } from '../elements/states.js';
import { field } from '../elements/field.js';
import { ask } from '../elements/dialog.js';
import { toast } from '../elements/toast.js';
import { plural, timeAgo } from '../format.js';
import { go, link } from '../router.js';
import { session, signIn } from '../session.js';
import * as accounts from '../users/accounts.js';
import { secondFactor } from '../users/second-factor.js';
import { clientName } from '../sync/client-name.js';
import { splitRoles } from './users.js';

export const title = ({ name }) => name;
export const styles = ['styles/lists.css'];

export async function show(main, { name }, { signal }) {
  const body = h('div', { class: 'stack' });
  put(main,
    heading({ title: name, crumbs: session.admin ? [['Users and devices', link('users')]] : [] }),
    body);
  const open = async () => {
    if (!body.firstChild) put(body, loading('Reading the account…'));
    try {
      const found = await read(name, signal);
      if (!signal.aborted) put(body, ...sections(found, open));
    } catch (error) {
      if (!signal.aborted) put(body, failure(error, open));
    }
  };
  await open();
}

async function read(name, signal) {
  const own = name === session.name;
  const [user, devices, peruser, admins] = await Promise.all([
    api.getOrNull(accounts.accountPath(name), { signal }),
    accounts.devices(name, { own, signal }),
    session.admin ? api.getOrNull('_node/_local/_config/couch_peruser', { signal }) : null,
    session.admin ? api.getOrNull('_node/_local/_config/admins', { signal }) : null,
  ]);
  const database = accounts.ownDatabase(name, peruser?.database_prefix);
  const info = await api.getOrNull(api.part(database), { signal });
  return { name, own, user, devices, database, info, peruser: peruser?.enable === 'true', serverAdmin: Object.hasOwn(admins ?? {}, name) };
}

function sections(found, open) {
  const { user, serverAdmin } = found;
  return [
    serverAdmin ? h('p', { class: 'panel' }, 'This is a server admin: it is kept in the settings, and may do everything.') : null,
    user === null && !serverAdmin ? h('p', { class: 'panel' }, 'There is no account of this name. It may come from a token issuer, or it was deleted.') : null,
    devicesCard(found, open),
    h('div', { class: 'panels' },
      user && session.admin ? rolesCard(found, open) : null,
      user ? passwordCard(found, open) : null,
      serverAdmin && !user ? adminPasswordCard(found) : null,
      user ? secondFactor(found, open) : null,
      user && (session.admin || found.info) ? databaseCard(found, open) : null,
      user && session.admin ? endCard(found, open) : null),
  ];
}

/** Runs what a button does: no second click meanwhile, and what went wrong as a message. */
function act(action, done) {
  return async (event) => {
    event.preventDefault();
    const button = event.submitter ?? event.currentTarget;
    button.disabled = true;
    try {
      const message = await action(event);
      if (message) toast(message);
      if (message !== null) await done?.();
    } catch (error) {
      toast(error.message, { kind: 'error' });
    }
    button.disabled = false;
  };
}

function rolesCard({ name, user }, open) {
  const roles = Array.isArray(user.roles) ? user.roles.join(', ') : '';
  return h('form', { class: 'panel', 'aria-label': 'Roles', onsubmit: act(async (event) => {
    await accounts.setRoles(name, splitRoles(event.target.elements.roles.value));
    return 'The roles are saved. They count from the next request on.';
  }, open) },
  h('h2', {}, 'Roles'),
  field({ label: 'Roles', name: 'roles', value: roles, autocomplete: 'off', spellcheck: 'false', hint: 'Databases name roles to say who may use them. Commas between several; none is fine.' }),
  h('div', { class: 'row' }, h('button', {}, 'Save the roles')));
}

const KINDS = { cookie: 'signed in with a session', token: 'signed in with tokens', password: 'sends the password each time' };

function devicesCard({ name, own, devices }, open) {
  const everywhere = h('button', { type: 'button', class: 'danger', onclick: act(async () => {
    const sure = await ask({
      title: own ? 'Sign out all other devices?' : `Sign ${name} out everywhere?`,
      body: 'Their next request is refused, and open feeds end at once. What the devices have synced stays on them.',
      confirm: 'Sign out',
    });
    if (!sure) return null;
    await accounts.signOutEverywhere(name, { own });
    return own ? 'All other devices are signed out.' : `${name} is signed out everywhere.`;
  }, open) }, own ? 'Sign out all other devices' : 'Sign out everywhere');
  const rows = devices.map((device) => deviceRow(name, own, device, open));
  return h('section', { class: 'panel', 'aria-label': 'Devices' },
    h('div', { class: 'row apart' }, h('h2', {}, 'Devices'), devices.length > 0 ? everywhere : null),
    devices.length === 0
      ? h('p', { class: 'quiet' }, 'No device is signed in. One appears here when an app signs in or syncs under this name.')
      : h('ul', { class: 'plain-list lines' }, rows));
}

function deviceRow(name, own, device, open) {
  const synced = Object.keys(device.databases ?? {});
  const shown = device.name ? clientName(device.name) : 'Unnamed device';
  const revoke = act(async () => {
    const sure = await ask({
      title: `Sign ${shown} out?`,
      body: device.kind === 'password'
        ? 'This app sends the password with each request, so signing out does not keep it away: change the password too.'
        : 'Its next request is refused, and its open feeds end at once. What it has synced stays on it.',
      confirm: 'Sign out',
    });
    if (!sure) return null;
    await accounts.revoke(name, device.id, own);
    return 'The device is signed out.';
  }, open);
  return h('li', {},
    h('div', { class: 'grow' },
      h('b', { class: 'break', title: device.name ?? '' }, shown), ' ',
      device.current ? h('span', { class: 'badge good' }, 'this one') : null,
      device.active ? null : h('span', { class: 'badge' }, 'session ended'),
      h('p', { class: 'quiet' }, `${KINDS[device.kind] ?? device.kind}, last seen `, timeAgo(device.last_seen * 1000), ` from ${device.address || 'an unknown address'}`),
      synced.length > 0 ? h('p', { class: 'quiet break' }, `Syncs ${synced.join(', ')}`) : null),
    h('button', { type: 'button', onclick: revoke, 'aria-label': `Sign out ${shown}` }, 'Sign out'));
}

function passwordCard({ name, own, user }, open) {
  return h('form', { class: 'panel', 'aria-label': 'Password', onsubmit: act(async (event) => {
    const { password } = event.target.elements;
    await accounts.setPassword(name, password.value);
    if (own && !accounts.hasTotp(user)) await signIn(name, password.value);
    event.target.reset();
    return 'The password is changed. Every device has to sign in again with it.';
  }, open) },
  h('h2', {}, 'Password'),
  field({ label: 'New password', name: 'password', type: 'password', required: true, autocomplete: 'new-password', hint: 'Changing it ends all sessions of the account.' }),
  h('div', { class: 'row' }, h('button', {}, 'Change the password')));
}

/** The password of a server admin is a setting. */
function adminPasswordCard({ name, own }) {
  return h('form', { class: 'panel', 'aria-label': 'Password', onsubmit: act(async (event) => {
    const { password } = event.target.elements;
    await api.putJson(`_node/_local/_config/admins/${api.part(name)}`, password.value);
    if (own) await signIn(name, password.value);
    event.target.reset();
    return 'The password is changed.';
  }) },
  h('h2', {}, 'Password'),
  field({ label: 'New password', name: 'password', type: 'password', required: true, autocomplete: 'new-password', hint: 'A long one: it opens everything on this server.' }),
  h('div', { class: 'row' }, h('button', {}, 'Change the password')));
}

function databaseCard({ name, database, info, peruser }, open) {
  const text = info
    ? `${plural(info.doc_count, 'document')}. Nobody else may use it unless its permissions were changed.`
    : `There is none. It would be called ${database}, and only ${name} could use it.`;
  return h('section', { class: 'panel', 'aria-label': 'Own database' },
    h('h2', {}, 'Own database'),
    info ? h('p', {}, h('a', { class: 'break', href: link('db', database) }, database)) : null,
    h('p', { class: 'quiet break' }, text),
    peruser ? h('p', { class: 'quiet' }, 'The server makes one for every account (couch_peruser/enable).') : null,
    info || !session.admin ? null : h('div', { class: 'row' }, h('button', { type: 'button', onclick: act(async () => {
      await accounts.createOwnDatabase(name, database);
      return 'The database is made.';
    }, open) }, 'Make it')));
}

function endCard({ name, user }, open) {
  const locked = accounts.isLocked(user);
  const lock = h('button', { type: 'button', onclick: act(async () => {
    await (locked ? accounts.unlock(name) : accounts.lock(name));
    return locked ? `${name} can sign in again, with the password from before.` : `${name} is locked and signed out.`;
  }, open) }, locked ? 'Unlock the account' : 'Lock the account');
  const remove = h('button', { type: 'button', class: 'danger', onclick: act(async () => {
    const sure = await ask({
      title: `Delete ${name}?`,
      body: 'The account, its devices and sessions go. Its documents in databases stay. An admin can make an account of this name again.',
      confirm: 'Delete the account', typed: name,
    });
    if (!sure) return null;
    await accounts.remove(name);
    go(link('users'));
    toast(`${name} is deleted.`);
    return null;
  }) }, 'Delete the account');
  return h('section', { class: 'panel', 'aria-label': 'Lock or delete' },
    h('h2', {}, 'Lock or delete'),
    locked
      ? h('p', {}, 'This account is locked: no password is right. Unlock it, or set a new password.')
      : h('p', { class: 'quiet' }, 'A locked account keeps everything and cannot sign in; its sessions end at once.'),
    h('div', { class: 'row' }, lock, remove));
}
