// The rows of a view: by key, by range, reduced and grouped.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { databaseHeading } from '../database-tabs.js';
import { rowTable } from '../documents/results.js';
import { field, form } from '../elements/field.js';
import { notice } from '../elements/states.js';
import { parse, write } from '../json.js';
import { go, link } from '../router.js';

export const title = ({ ddoc, view }) => `${ddoc}/${view}`;
export const styles = ['styles/documents.css'];
const SIZE = 50;
const JSON_FIELDS = ['key', 'start_key', 'end_key'];

export async function show(main, { db, ddoc, view }, { signal, query }) {
  const design = await api.get(`${api.part(db)}/_design/${api.part(ddoc)}`, { signal });
  const own = design.views?.[view];
  if (!own) throw new api.ApiError(404, 'not_found', `The design document ${ddoc} has no view ${view}.`);
  const mango = design.language === 'query';
  const reduces = Boolean(own.reduce) && !mango;
  const others = Object.keys(design.views).filter((name) => name !== 'lib');
  const head = databaseHeading(db, 'design', { title: `${ddoc}/${view}`, mono: true, tabs: false, crumbs: [['Views and design', link('db', db, 'design')]],
    actions: [h('a', { class: 'button', href: link('db', db, 'design', ddoc) }, 'Edit')] });
  const switcher = others.length > 1 ? h('nav', { class: 'segments', 'aria-label': 'Views of this design document' }, others.map((name) => h('a', { href: link('db', db, 'view', ddoc, name), 'aria-current': name === view ? 'page' : null }, name))) : null;
  const area = h('div', { class: 'stack' });
  put(main, head, switcher, parameters({ db, ddoc, view, query, reduces }), area);
  try {
    put(area, await rows({ db, ddoc, view, query, reduces, signal }));
  } catch (error) {
    if (signal.aborted) throw error;
    put(area, notice('error', h('span', {}, error.reason ?? error.message)));
  }
}

function parameters({ db, ddoc, view, query, reduces }) {
  const text = (name, label, hint) => field({ label, name, value: query.get(name) ?? '', hint, class: 'mono' });
  const fields = [text('key', 'Key', 'As JSON: "a", 1, ["a",2]'), text('start_key', 'From key'), text('end_key', 'To key'),
    field({ label: 'Order', name: 'descending', type: 'select', options: [['', 'Ascending'], ['true', 'Descending']], value: query.get('descending') ?? '' }),
    ...(reduces ? [field({ label: 'Reduce', name: 'reduce', type: 'select', value: query.get('reduce') ?? '', options: [['', 'No: all rows'], ['total', 'To one value'], ['group', 'For each key'], ['1', 'For the 1st element of keys'], ['2', 'For the first 2 elements'], ['3', 'For the first 3 elements']] })] : [])];
  const element = form({ fields: [h('div', { class: 'fields narrow-fields' }, fields)], submit: 'Show', extra: [h('a', { class: 'button', href: link('db', db, 'view', ddoc, view) }, 'Reset')], action: async () => {
    const values = Object.fromEntries(fields.map((each) => [each.control.name, each.value.trim()]));
    for (const each of fields.filter(({ control }) => JSON_FIELDS.includes(control.name))) {
      each.fail();
      if (!each.value.trim()) continue;
      try {
        parse(each.value);
      } catch (error) {
        each.fail(`This is not JSON: ${error.message}. A text needs quotes: "${each.value.trim().replaceAll('"', '')}".`);
        return;
      }
    }
    go(link('db', db, 'view', ddoc, view, values));
  } });
  element.classList.add('panel');
  return element;
}

async function rows({ db, ddoc, view, query, reduces, signal }) {
  const skip = Math.max(0, Number(query.get('skip')) || 0);
  const reduce = reduces ? query.get('reduce') ?? '' : '';
  const compact = (name) => (query.get(name) ? write(parse(query.get(name))) : undefined);
  const asked = { key: compact('key'), start_key: compact('start_key'), end_key: compact('end_key'), descending: query.get('descending') || undefined, limit: SIZE + 1, skip,
    reduce: reduces ? String(reduce !== '') : undefined, group: reduce === 'group' || undefined, group_level: /^[0-9]+$/.test(reduce) ? reduce : undefined };
  const answer = parse(await api.textForPage(`${api.part(db)}/_design/${api.part(ddoc)}/_view/${api.part(view)}`, { query: asked, signal }, 'The values of this view are large: emit less, or look at one key.'));
  const list = answer.get('rows');
  const more = list.length > SIZE;
  if (more) list.pop();
  const to = (next) => link('db', db, 'view', ddoc, view, { ...Object.fromEntries(query), skip: next || null });
  const narrowed = ['key', 'start_key', 'end_key'].some((name) => query.get(name));
  const total = answer.get('total_rows');
  return rowTable(db, list, { pager: { from: skip + 1, shown: list.length, total: total && !narrowed && !reduce ? Number(total.text) : null, what: 'rows', previous: skip > 0 ? to(Math.max(0, skip - SIZE)) : null, next: more ? to(skip + SIZE) : null } });
}
