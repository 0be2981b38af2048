// The settings of a database: who may use it, its limits, compaction, and its deletion.

import * as api from '../api.js';
import { h, pause, put } from '../dom.js';
import { databaseHeading } from '../database-tabs.js';
import { ask } from '../elements/dialog.js';
import { field, form } from '../elements/field.js';
import { notice } from '../elements/states.js';
import { acting, toast } from '../elements/toast.js';
import { bytes, count } from '../format.js';
import { go } from '../router.js';
import { effect, isPublic, names } from '../security.js';
import { session } from '../session.js';

export const title = ({ db }) => `Settings of ${db}`;

export async function show(main, { db }, { signal, again }) {
  const path = api.part(db);
  const [info, security, revisions, purges, autoPurge] = await Promise.all([
    api.get(path, { signal }), api.getOrNull(`${path}/_security`, { signal }), api.getOrNull(`${path}/_revs_limit`, { signal }),
    api.getOrNull(`${path}/_purged_infos_limit`, { signal }), api.getOrNull(`${path}/_auto_purge`, { signal })]);
  put(main, databaseHeading(db, 'settings'),
    h('div', { class: 'panels' },
      security ? rights(db, security) : h('section', { class: 'panel' }, h('h2', {}, 'Rights'), h('p', { class: 'quiet' }, 'Only admins of the database may see who else may use it.')),
      h('div', { class: 'stack' }, about(info), limits(db, { revisions, purges, autoPurge }))),
    h('div', { class: 'panels' }, upkeep(db, info, signal), deletion(db, info, again)));
}

/** Who may use the database, with the effect in words while it is edited. */
function rights(db, security) {
  const list = (part, kind) => (security[part]?.[kind] ?? []).join(', ');
  const one = (label, part, kind, hint) => field({ label, name: `${part}_${kind}`, value: list(part, kind), hint, oninput: () => draw() });
  const fields = [one('Members: names', 'members', 'names', 'Names of users, with commas between.'), one('Members: roles', 'members', 'roles', 'Everybody with one of these roles is a member. _admin stands for server admins.'),
    one('Admins: names', 'admins', 'names', 'They may change design documents and these rights.'), one('Admins: roles', 'admins', 'roles')];
  const present = () => {
    const next = structuredClone(security);
    for (const { control } of fields) {
      const [part, kind] = control.name.split('_');
      next[part] = { ...next[part], [kind]: names(control.value) };
    }
    return next;
  };
  const words = h('div', { 'aria-live': 'polite' });
  const draw = () => put(words, notice(isPublic(present()) ? 'warning' : 'info', effect(present()).map((sentence) => h('p', {}, sentence))));
  draw();
  return h('section', { class: 'panel' }, h('h2', {}, 'Who may use it'), words, form({ fields, submit: 'Save the rights', action: async () => {
    await api.putJson(`${api.part(db)}/_security`, present());
    toast('The rights are saved. They hold at once, for open feeds too.');
  } }));
}

const about = (info) => h('section', { class: 'panel' }, h('h2', {}, 'About'), h('dl', { class: 'facts' },
  [['Documents', count(info.doc_count)], ['Deleted documents', count(info.doc_del_count)], ['On disk', bytes(info.sizes?.file)], ['Live data', bytes(info.sizes?.active)],
    ['As JSON', bytes(info.sizes?.external)], ['Sequence', info.update_seq], ['Partitioned', info.props?.partitioned ? 'yes' : 'no']].map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])));

/** The limits of the database, each a number that is saved alone. */
function limits(db, { revisions, purges, autoPurge }) {
  const path = api.part(db);
  const parts = [];
  if (revisions !== null) parts.push({ name: 'revisions', label: 'Revisions kept of each document', value: revisions, hint: 'A device that was offline for more edits than this of one document may see conflicts.', put: `${path}/_revs_limit` });
  if (purges !== null) parts.push({ name: 'purges', label: 'Purges that are remembered', value: purges, hint: 'For indexes and clients that follow purges.', put: `${path}/_purged_infos_limit` });
  const fields = parts.map(({ name, label, value, hint }) => field({ label, name, type: 'number', min: 1, value: String(value), hint }));
  const days = autoPurge && 'deleted_document_ttl' in autoPurge ? autoPurge.deleted_document_ttl : '';
  const purge = autoPurge === null ? null : field({ label: 'Purge deleted documents after', name: 'ttl', value: days ?? '', placeholder: 'never', hint: 'As 30_days or 12_hours. A device that stays away longer brings them back. Empty: never.' });
  return h('section', { class: 'panel' }, h('h2', {}, 'Limits'), form({ fields: purge ? [...fields, purge] : fields, submit: 'Save the limits', action: async (values) => {
    for (const [at, each] of parts.entries()) {
      const number = Number(values[each.name]);
      if (!Number.isInteger(number) || number < 1) {
        fields[at].fail('A whole number of at least 1.');
        return;
      }
      if (number !== each.value) await api.putJson(each.put, number);
      each.value = number;
    }
    if (purge && values.ttl !== days) {
      try {
        await api.putJson(`${path}/_auto_purge`, values.ttl.trim() ? { ...autoPurge, deleted_document_ttl: values.ttl.trim() } : {});
      } catch (error) {
        purge.fail(error.reason);
        return;
      }
    }
    toast('The limits are saved.');
  } }));
}

function upkeep(db, info, signal) {
  const path = api.part(db);
  const state = h('span', { role: 'status', class: 'quiet' }, info.compact_running ? 'Compaction is running.' : '');
  const compact = h('button', { type: 'button', onclick: () => acting(compact, async () => {
    await api.post(`${path}/_compact`);
    state.textContent = 'Compaction is running…';
    for (let now = { compact_running: true }; now.compact_running && !signal.aborted;) {
      await pause(500, signal);
      now = await api.get(path, { signal });
      if (!now.compact_running) state.textContent = `Done: ${bytes(info.sizes.file)} before, ${bytes(now.sizes.file)} now.`;
    }
  }) }, 'Compact now');
  const clean = h('button', { type: 'button', onclick: () => acting(clean, async () => {
    await api.post(`${path}/_view_cleanup`);
    state.textContent = 'Indexes that no design document defines are removed.';
  }) }, 'Remove unused indexes');
  return h('section', { class: 'panel' }, h('h2', {}, 'Upkeep'), h('p', { class: 'quiet' }, 'settee compacts by itself. Compaction removes the bodies of old revisions: they can then no longer be read or restored.'), h('div', { class: 'row' }, compact, clean), state);
}

const deletion = (db, info) => !session.admin ? null : h('section', { class: 'panel' }, h('h2', {}, 'Delete the database'),
  h('p', { class: 'quiet' }, `Removes ${count(info.doc_count)} documents, their attachments and indexes. Devices keep their copies; those that sync continuously see an error.`),
  h('div', { class: 'row' }, h('button', { type: 'button', class: 'danger', onclick: async () => {
    const yes = await ask({ title: `Delete ${db}?`, typed: db, confirm: 'Delete the database', body: `All ${count(info.doc_count)} documents are removed from this server. Only a backup brings them back.`, action: () => api.del(api.part(db)) });
    if (!yes) return;
    toast(`${db} is deleted.`);
    go('#/databases');
  } }, 'Delete this database')));
