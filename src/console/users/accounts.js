// Accounts: documents of `_users`, read and changed without losing what apps keep in them.

import * as api from '../api.js';
import { parse, write } from '../json.js';

const PREFIX = 'org.couchdb.user:';
/** Members from which the server derives whether a password is right. */
const CREDENTIALS = ['password_scheme', 'pbkdf2_prf', 'derived_key', 'salt', 'iterations', 'password_sha'];

export const accountPath = (name) => `_users/${api.part(PREFIX + name)}`;

/** One page of accounts whose name begins with `prefix`; `after` is the last name of the page before. */
export async function list({ prefix = '', after, limit = 50, signal }) {
  const query = {
    include_docs: true, limit: limit + 1,
    start_key: JSON.stringify(PREFIX + (after ?? prefix)), end_key: JSON.stringify(`${PREFIX}${prefix}\uffff`),
    ...(after === undefined ? {} : { skip: 1 }),
  };
  const { rows } = await api.get('_users/_all_docs', { query, signal });
  const docs = rows.map((row) => row.doc).filter((doc) => doc?._id.startsWith(PREFIX));
  return { users: docs.slice(0, limit), more: docs.length > limit };
}

/** Accounts that have a role; Mango looks at every account for that. */
export async function withRole(role, { bookmark, limit = 50, signal } = {}) {
  const body = { selector: { roles: { $elemMatch: { $eq: role } } }, limit, ...(bookmark ? { bookmark } : {}) };
  const answer = await api.post('_users/_find', body, { signal });
  return { users: answer.docs, more: answer.docs.length === limit, bookmark: answer.bookmark };
}

export const nameOf = (user) => user.name ?? user._id.slice(PREFIX.length);
export const isLocked = (user) => user.locked !== undefined && user.derived_key === undefined;
export const hasTotp = (user) => user.totp !== undefined;

/** Makes an account. */
export function create({ name, password, roles }) {
  const body = { name, password, roles, type: 'user' };
  return api.putJson(accountPath(name), body);
}

/** Reads an account, lets `edit` change its members (a Map), and writes it; again if somebody else was faster. */
export async function change(name, edit) {
  for (let round = 0; ; round += 1) {
    const account = parse(await api.text(accountPath(name)));
    edit(account);
    try {
      return (await api.send('PUT', accountPath(name), { text: write(account) })).json;
    } catch (error) {
      if (error.status !== 409 || round === 2) throw error;
    }
  }
}

export const setRoles = (name, roles) => change(name, (account) => account.set('roles', roles));

export const setPassword = (name, password) => change(name, (account) => {
  account.delete('locked');
  account.set('password', password);
});

/** Switches one-time codes on (`key` in base32) or off (`key` null). */
export const setTotp = (name, key) => change(name, (account) => {
  if (key === null) account.delete('totp');
  else account.set('totp', new Map([['key', key]]));
});

/** Locks an account: its password hash is set aside, so that no password is right and every session has ended. */
export async function lock(name) {
  await change(name, (account) => {
    const kept = CREDENTIALS.filter((member) => account.has(member));
    if (kept.length === 0) return;
    account.set('locked', new Map([
      ['at', new Date().toISOString()],
      ['credentials', new Map(kept.map((member) => [member, account.get(member)]))],
    ]));
    for (const member of kept) account.delete(member);
  });
  await signOutEverywhere(name);
}

export const unlock = (name) => change(name, (account) => {
  const credentials = account.get('locked')?.get?.('credentials');
  account.delete('locked');
  if (credentials instanceof Map) for (const [member, value] of credentials) account.set(member, value);
});

export const remove = async (name) => {
  const { _rev: rev } = await api.get(accountPath(name));
  return api.del(accountPath(name), { query: { rev } });
};

const forUser = (name, own) => (own ? {} : { user: name });

export const devices = async (name, { own = false, signal } = {}) => (await api.get('_session/devices', { query: forUser(name, own), signal })).devices;
export const revoke = (name, device, own = false) => api.del(`_session/devices/${api.part(device)}`, { query: forUser(name, own) });
export const signOutEverywhere = (name, { own = false } = {}) => api.del('_session/devices', { query: { ...forUser(name, own), ...(own ? { except: 'current' } : {}) } });

/** The name of a user's own database, as couch_peruser makes it: the name in hexadecimal. */
export function ownDatabase(name, prefix = 'userdb-') {
  return prefix + [...new TextEncoder().encode(name)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Makes a database that only this user may use. */
export async function createOwnDatabase(name, database) {
  await api.send('PUT', api.part(database));
  const only = { names: [name], roles: [] };
  await api.putJson(`${api.part(database)}/_security`, { admins: only, members: only });
}

/** A password of 20 letters and digits that nobody confuses. */
export function randomPassword() {
  const letters = 'abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789';
  const bytes = new Uint8Array(64);
  let password = '';
  while (password.length < 20) {
    crypto.getRandomValues(bytes);
    // Bytes beyond a multiple of the alphabet would make some letters likelier.
    for (const byte of bytes) if (byte < 4 * letters.length && password.length < 20) password += letters[byte % letters.length];
  }
  return password;
}
