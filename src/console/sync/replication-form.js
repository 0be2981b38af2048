// The form for a new replication: two ends, each tried before the replication is made.

import { freshId, h, put } from '../dom.js';
import * as api from '../api.js';
import { field } from '../elements/field.js';
import { go, link } from '../router.js';
import { toast } from '../elements/toast.js';
import { create, cure, testEnd } from './replications.js';

/** The form; `query` may name a `source` or `target` here. */
export async function replicationForm(query, signal) {
  const names = (await api.getOrNull('_all_dbs', { query: { limit: 1000 }, signal })) ?? [];
  const known = h('datalist', { id: freshId('databases') }, names.filter((name) => !name.startsWith('_')).map((name) => h('option', { value: name })));
  const source = endFields('source', 'From', known.id, query.get('source'));
  const target = endFields('target', 'To', known.id, query.get('target'));
  const problem = h('p', { class: 'form-error', role: 'alert' });
  const test = h('button', { type: 'button' }, 'Test the connections');
  const submit = h('button', { class: 'primary' }, 'Make the replication');
  const form = h('form', { class: 'stack', autocomplete: 'off', 'aria-label': 'New replication' }, known,
    h('div', { class: 'ends' }, source.element, target.element),
    options(), problem, h('div', { class: 'row' }, submit, test));
  const busy = async (button, action) => {
    problem.textContent = '';
    submit.disabled = true;
    test.disabled = true;
    const text = button.textContent;
    button.textContent = 'Testing the connections…';
    try {
      await action();
    } catch (error) {
      problem.textContent = error.message;
    }
    button.textContent = text;
    submit.disabled = false;
    test.disabled = false;
  };
  const tryBoth = async () => {
    const creates = form.elements.create_target.checked;
    const [first, second] = await Promise.all([source.test(), target.test({ creates })]);
    return first && second;
  };
  test.addEventListener('click', () => form.reportValidity() && busy(test, tryBoth));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    busy(submit, async () => {
      const document = replicationDocument(form, source.value(), target.value());
      if (!(await tryBoth()) && !form.elements.anyway.checked) {
        form.querySelector('.anyway').hidden = false;
        problem.textContent = 'A connection does not work, so the replication was not made.';
        return;
      }
      const id = await create(form.elements.id.value.trim(), document);
      toast('The replication is made.');
      go(link('replication', id));
    });
  });
  return form;
}

/** The fields of one end: a database here, or one of another server with its credentials. */
function endFields(name, legend, list, database) {
  const here = h('div', {}, field({ label: 'Database', name: `${name}_db`, list, required: true, value: database ?? '', autocomplete: 'off', spellcheck: 'false' }));
  const there = h('div', { class: 'stack' },
    field({ label: 'Address of the database', name: `${name}_url`, type: 'url', placeholder: 'https://couch.example/notes', autocomplete: 'off', spellcheck: 'false' }),
    field({ label: 'User', name: `${name}_user`, autocomplete: 'off', spellcheck: 'false', hint: 'Empty if the database is open to everybody.' }),
    field({ label: 'Password', name: `${name}_password`, type: 'password', autocomplete: 'new-password', hint: 'Kept in the document of the replication, where admins can read it.' }));
  const result = h('p', { role: 'status', class: 'result' });
  const kind = freshId('kind');
  const choose = (remote) => {
    here.hidden = remote;
    there.hidden = !remote;
    input(`${name}_db`).required = !remote;
    input(`${name}_url`).required = remote;
    result.textContent = '';
  };
  const radio = (label, remote) => h('label', { class: 'row' }, h('input', { type: 'radio', name: kind, value: remote ? 'there' : 'here', checked: !remote, onchange: () => choose(remote) }), label);
  const element = h('fieldset', { class: 'panel' }, h('legend', {}, legend),
    h('div', { class: 'row' }, radio('A database here', false), radio('Another server', true)), here, there, result);
  const input = (wanted) => element.querySelector(`[name="${wanted}"]`);
  choose(false);
  const value = () => {
    if (!here.hidden) return input(`${name}_db`).value.trim();
    const url = input(`${name}_url`).value.trim();
    const user = input(`${name}_user`).value;
    return user === '' ? { url } : { url, auth: { basic: { username: user, password: input(`${name}_password`).value } } };
  };
  const test = async ({ creates = false } = {}) => {
    result.className = 'result';
    result.textContent = 'Testing…';
    const found = await testEnd(value());
    const fine = found.ok || (found.missing && creates);
    result.className = `result ${fine ? 'good' : 'bad'}`;
    put(result, ...said(found, creates));
    return fine;
  };
  return { element, value, test };
}

function said(found, creates) {
  if (found.ok) return ['The connection works.'];
  if (found.missing && creates) return ['The connection works. The database will be created.'];
  return [`${found.reason} `, h('span', {}, cure(found.error))];
}

const check = (name, label, hint, checked = false) => h('label', { class: 'check' }, h('input', { type: 'checkbox', name, checked }), h('span', {}, ` ${label}`, h('small', { class: 'quiet' }, ` ${hint}`)));

function options() {
  return h('fieldset', { class: 'panel' }, h('legend', {}, 'How'),
    check('continuous', 'Go on for ever', 'Otherwise it copies once what is there.', true),
    check('create_target', 'Create the target', 'if it is not there yet.'),
    h('div', { class: 'anyway', hidden: true }, check('anyway', 'Make it although a connection does not work', 'It is tried again until it does.')),
    h('details', {}, h('summary', {}, 'Name, and only some documents'),
      h('div', { class: 'fields' },
        field({ label: 'Name', name: 'id', autocomplete: 'off', spellcheck: 'false', hint: 'Of the document in _replicator. Empty: one is made up.' }),
        field({ label: 'Only these documents', name: 'doc_ids', autocomplete: 'off', spellcheck: 'false', hint: 'Ids with commas between them.' }),
        field({ label: 'Only documents that match', name: 'selector', autocomplete: 'off', spellcheck: 'false', hint: 'A Mango selector: {"type": "note"}' }),
        field({ label: 'Filter function', name: 'filter', autocomplete: 'off', spellcheck: 'false', hint: 'Of a design document of the source: design/name' }))));
}

/** The document of `_replicator`; throws where a field makes no sense. */
function replicationDocument(form, source, target) {
  const { continuous, create_target: creates, doc_ids: ids, selector, filter } = form.elements;
  const document = { source, target };
  if (continuous.checked) document.continuous = true;
  if (creates.checked) document.create_target = true;
  const limits = [ids, selector, filter].filter((input) => input.value.trim() !== '');
  if (limits.length > 1) throw new Error('Only one of the three can choose documents: ids, selector or filter.');
  if (ids.value.trim()) document.doc_ids = ids.value.split(',').map((id) => id.trim()).filter(Boolean);
  if (filter.value.trim()) document.filter = filter.value.trim();
  if (selector.value.trim()) {
    try {
      document.selector = JSON.parse(selector.value);
    } catch (error) {
      throw new Error(`The selector is not JSON: ${error.message}`);
    }
  }
  return document;
}
