// What the security object of a database means, in words; and giving a right.

import * as api from './api.js';

const list = (members, of) => (Array.isArray(members?.[of]) ? members[of] : []);

/** Whether members are restricted at all: with neither names nor roles, everybody is a member. */
export const isPublic = (security) => list(security?.members, 'names').length + list(security?.members, 'roles').length === 0;

const people = (part) => [...list(part, 'names'), ...list(part, 'roles').filter((role) => role !== '_admin').map((role) => `role ${role}`)];

/** A few words for a table: who may read. */
export function whoMayRead(security) {
  if (!security) return 'unknown';
  if (isPublic(security)) return 'Everybody';
  const all = [...new Set([...people(security.members), ...people(security.admins)])];
  if (all.length === 0) return 'Server admins';
  return all.length > 3 ? `${all.slice(0, 3).join(', ')} and ${all.length - 3} more` : all.join(', ');
}

const spoken = (all) => (all.length < 2 ? all.join('') : `${all.slice(0, -1).join(', ')} and ${all.at(-1)}`);

const described = (part) => [...list(part, 'names'), ...list(part, 'roles').filter((role) => role !== '_admin').map((role) => `everybody with the role “${role}”`)];

/** Sentences: what the object allows to whom. */
export function effect(security) {
  const members = described(security.members);
  const admins = described(security.admins);
  const sentences = [];
  if (isPublic(security)) sentences.push('Everybody who reaches the server may read and write documents, without an account too.');
  else if (members.length > 0) sentences.push(`These may read and write documents: ${spoken(members)}.`);
  else sentences.push('Nobody but admins may read or write documents.');
  if (admins.length > 0) sentences.push(`These may also change design documents and these rights: ${spoken(admins)}.`);
  sentences.push('Server admins may do everything.');
  return sentences;
}

/** The names of a comma-separated text. */
export const names = (text) => text.split(',').map((each) => each.trim()).filter(Boolean);

/** Adds a user to the members or admins (`part`) of a database, and changes nothing else. */
export async function grant(db, user, part) {
  const path = `${api.part(db)}/_security`;
  const security = await api.get(path);
  const known = list(security[part], 'names');
  if (known.includes(user)) return;
  await api.putJson(path, { ...security, [part]: { ...security[part], names: [...known, user] } });
}
