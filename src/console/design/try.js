// Tries a function on a document before it is saved. The server runs it, under the limits of every design function, and
// writes nothing.

import * as api from '../api.js';
import { h, put } from '../dom.js';
import { codeField } from '../elements/code.js';
import { field } from '../elements/field.js';
import { brief } from '../elements/json-view.js';
import { notice } from '../elements/states.js';
import { acting } from '../elements/toast.js';
import { parse, write } from '../json.js';
import { names } from '../security.js';
import { session } from '../session.js';

/** Runs `{kind, source, …}` on the server; resolves to its answer as values of json.js. */
export async function tryOut(db, asked, signal) {
  return parse((await api.send('POST', `${api.part(db)}/_try`, { text: write(asked), signal })).text);
}

/** Whether the source compiles: null, or `{message, line, column}`. Also null where the server cannot say. */
export async function compileError(db, kind, source, design, signal) {
  try {
    const answer = await tryOut(db, new Map([['kind', kind], ['source', source], ['design', design], ['compile', true]]), signal);
    if (answer.get('ok') !== false || answer.get('error') !== 'compilation_error') return null;
    return fault(answer);
  } catch {
    return null;
  }
}

const number = (value) => (value ? Number(value) : undefined);
export const fault = (answer) => ({ message: String(answer.get('message') ?? answer.get('reason') ?? answer.get('error')), line: number(answer.get('line')), column: number(answer.get('column')) });

/**
 * The panel. `parts()` are `{part, source, fail}` of the chosen function, `design()` is the design document, for
 * `require`. A document is chosen by its id or written.
 */
export function tryPanel({ db, kind, parts, design, signal }) {
  const id = field({ label: 'Document', name: 'try', placeholder: 'id of a document', hint: 'Its text is loaded below, and can be changed for the test.' });
  const doc = codeField({ label: 'Document to try the function on', rows: 5, most: 14, value: '{\n  "_id": "example"\n}' });
  const user = field({ label: 'User', name: 'user', value: session.name });
  const roles = field({ label: 'Roles', name: 'roles', value: session.roles.join(', ') });
  const isNew = field({ label: 'As a new document: there is no old one', name: 'fresh', type: 'checkbox' });
  const area = h('div', { class: 'try-result', role: 'status' });
  let stored = null;
  const load = async () => {
    id.fail();
    if (!id.value) return;
    try {
      stored = parse(await api.text(api.docPath(db, id.value), { signal }));
      doc.value = write(stored, 2);
    } catch (error) {
      id.fail(error.status === 404 ? 'There is no such document.' : error.reason ?? error.message);
    }
  };
  id.control.addEventListener('change', load);
  const button = h('button', { type: 'button' }, 'Try');
  button.addEventListener('click', () => acting(button, async () => {
    doc.fail();
    put(area);
    let value;
    try {
      value = parse(doc.value);
    } catch (error) {
      doc.fail(error.message, error.line, error.column);
      return;
    }
    const extra = kind === 'validate' ? [['old_doc', isNew.value ? null : stored], ['user_ctx', new Map([['db', db], ['name', user.value || null], ['roles', names(roles.value)]])]] : [];
    put(area, await run({ db, kind, parts: parts(), design: design(), value, extra, signal }));
  }));
  first(db, id, load, signal);
  return h('section', { class: 'panel', 'aria-label': 'Try it' }, h('h2', {}, 'Try it before you save'), id, doc,
    kind === 'validate' ? h('div', { class: 'stack tight' }, h('div', { class: 'fields' }, user, roles), isNew) : null, h('div', { class: 'row' }, button), area);
}

/** Begins with the first document that is no design document. */
async function first(db, id, load, signal) {
  const found = await api.getOrNull(`${api.part(db)}/_all_docs`, { query: { limit: 1, start_key: '"_design0"' }, signal }).catch(() => null);
  const some = found?.rows[0] ?? (await api.getOrNull(`${api.part(db)}/_all_docs`, { query: { limit: 1, end_key: '"_design/"' }, signal }).catch(() => null))?.rows[0];
  if (!some || id.value || signal.aborted) return;
  id.value = some.id;
  await load();
}

async function run({ db, kind, parts, design, value, extra, signal }) {
  const [main, reduce] = parts;
  const asked = (part, source, more) => tryOut(db, new Map([['kind', part], ['source', source], ['design', design], ...more]), signal);
  const answer = await asked(main.part, main.source, [['doc', value], ...extra]);
  if (answer.get('ok') === false) return [failed(answer, main), logs(answer)];
  const shown = [outcome(kind, answer), logs(answer)];
  const rows = answer.get('rows');
  if (kind === 'view' && reduce?.source.trim() && rows?.length > 0) {
    const reduced = await asked('reduce', reduce.source, [['keys', rows.map((row) => [row.get('key'), value.get('_id') ?? null])], ['values', rows.map((row) => row.get('value'))]]);
    shown.push(reduced.get('ok') === false ? failed(reduced, reduce) : h('p', {}, 'Reduced to: ', h('code', {}, brief(reduced.get('value'), 400, true))), logs(reduced));
  }
  return shown;
}

function failed(answer, part) {
  const { message, line, column } = fault(answer);
  part.fail(message, line, column);
  return notice('error', h('span', {}, line ? `Line ${line}: ${message}` : message));
}

function logs(answer) {
  const lines = answer.get('logs') ?? [];
  return lines.length > 0 ? h('div', {}, h('p', { class: 'quiet' }, 'log() said:'), h('pre', {}, lines.map(String).join('\n'))) : null;
}

/** What the function did, in words. */
function outcome(kind, answer) {
  if (kind === 'view') {
    const rows = answer.get('rows') ?? [];
    if (rows.length === 0) return h('p', {}, 'It emits nothing for this document.');
    return h('div', {}, h('p', {}, `It emits ${rows.length === 1 ? '1 row' : `${rows.length} rows`}:`), h('table', {}, h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, 'Key'), h('th', { scope: 'col' }, 'Value'))),
      h('tbody', {}, rows.slice(0, 50).map((row) => h('tr', {}, h('td', { class: 'mono' }, brief(row.get('key'), 200, true)), h('td', { class: 'mono' }, brief(row.get('value'), 200, true)))))));
  }
  if (kind === 'filter') return notice(answer.get('passes') ? 'good' : 'info', h('span', {}, answer.get('passes') ? 'The document passes.' : 'The document does not pass.'));
  if (kind === 'validate') return answer.get('allowed') ? notice('good', h('span', {}, 'The write is allowed.')) : notice('warning', h('span', {}, `The write is refused (${answer.get('error')}): ${answer.get('reason')}`));
  return h('pre', {}, write(answer, 2));
}
