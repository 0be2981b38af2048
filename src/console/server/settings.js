// All settings with what they mean, their default and where the value comes from; changed in place.

import { debounce, freshId, h, put } from '../dom.js';
import * as api from '../api.js';
import { empty, loading } from '../elements/states.js';
import { acting, toast } from '../elements/toast.js';
import { plural } from '../format.js';

const NODE = '_node/_local';
const SOURCES = { default: 'default', file: 'from the file', environment: 'from the environment', argument: 'from the command line', http: 'changed here', store: 'changed here' };
const WHEN = { restart: 'Counts after a restart.', start: 'Set at the start only: in the file, the environment or the command line.' };

export async function fill(body, { signal, query }) {
  if (!body.firstChild) put(body, loading('Reading the settings…'));
  const { settings } = await api.get(`${NODE}/_settings`, { signal });
  if (signal.aborted) return;
  const search = h('input', { type: 'search', placeholder: 'Search name or description…', 'aria-label': 'Search settings', value: query.get('q') ?? '' });
  const changed = h('input', { type: 'checkbox', name: 'changed' });
  const list = h('div', { class: 'stack tight' });
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => words.every((word) => `${row.section}/${row.key} ${row.doc}`.toLowerCase().includes(word)) && (!changed.checked || row.source !== 'default');
    put(list, sections(settings.filter(fits), words.length > 0 || changed.checked));
  };
  search.addEventListener('input', debounce(draw, 150));
  changed.addEventListener('change', draw);
  put(body, h('search', { class: 'row' }, h('span', { class: 'grow' }, search), h('label', { class: 'row' }, changed, 'Only what differs from the default')), list);
  draw();
}

function sections(rows, open) {
  if (rows.length === 0) return empty({ title: 'No such setting', text: 'Search for a part of its name, as in docs/configuration.md, or for a word of its description.' });
  const groups = Map.groupBy ? Map.groupBy(rows, (row) => row.section) : group(rows);
  return [...groups].map(([section, members]) => {
    const content = h('div', { class: 'settings' });
    const fillOnce = () => {
      if (!content.hasChildNodes()) put(content, members.map(setting));
    };
    if (open) fillOnce();
    const differing = members.filter(({ source }) => source !== 'default').length;
    return h('details', { class: 'panel section', open, ontoggle: fillOnce },
      h('summary', {}, h('h2', { class: 'mono' }, section), h('span', { class: 'quiet' }, plural(members.length, 'setting'), differing > 0 ? `, ${differing} not at the default` : '')),
      content);
  });
}

/** For browsers without `Map.groupBy`. */
function group(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(row.section, [...(groups.get(row.section) ?? []), row]);
  return groups;
}

/** One setting: its name, what it does, its value; buttons appear when the value was touched. */
function setting(row) {
  const id = freshId('setting');
  const box = h('form', { class: 'setting' });
  const problem = h('p', { class: 'form-error', role: 'alert' });
  const input = control(row, id);
  const save = h('button', { class: 'small primary', hidden: true }, 'Save');
  const undo = h('button', { type: 'button', class: 'small', hidden: true }, 'Undo');
  const reset = h('button', { type: 'button', class: 'small plain', 'aria-label': `Back to the default of ${row.section}/${row.key}` }, 'Back to the default');
  const source = h('span', { class: 'badge' });
  const show = () => {
    input.value = row.secret ? '' : row.value ?? '';
    for (const button of [save, undo]) button.hidden = true;
    source.textContent = SOURCES[row.source] ?? row.source;
    source.className = row.source === 'default' ? 'badge' : 'badge accent';
    reset.hidden = !row.changeable || !['http', 'store'].includes(row.source);
  };
  const touched = () => {
    const same = input.value === (row.secret ? '' : row.value ?? '');
    for (const button of [save, undo]) button.hidden = same;
  };
  const write = (button, action) => acting(button, async () => {
    problem.textContent = '';
    try {
      await action();
      await reread(row);
      show();
      toast(`${row.section}/${row.key} is ${button === reset ? 'back at its default' : 'saved'}. ${WHEN[row.when] ?? ''}`);
    } catch (error) {
      problem.textContent = error.message;
      input.focus();
    }
  });
  const path = `${NODE}/_config/${api.part(row.section)}/${api.part(row.key)}`;
  input.addEventListener('input', touched);
  undo.addEventListener('click', show);
  reset.addEventListener('click', () => write(reset, () => api.del(path)));
  box.addEventListener('submit', (event) => {
    event.preventDefault();
    if (!save.hidden) write(save, () => api.putJson(path, input.value));
  });
  put(box,
    h('div', {}, h('label', { for: id, class: 'mono break' }, row.key), ' ', source, h('p', { class: 'quiet' }, row.doc, ' ', WHEN[row.when] ?? '')),
    h('div', { class: 'stack tight' }, input,
      h('p', { class: 'hint break' }, row.default === null || row.default === undefined ? 'No default' : `Default: ${row.default === '' ? '(empty)' : row.default}`, row.unit ? ` (${row.unit})` : ''),
      problem, h('div', { class: 'row' }, save, undo, reset)));
  show();
  return box;
}

function control(row, id) {
  const fixed = { id, disabled: !row.changeable };
  const choices = row.kind === 'flag' ? ['true', 'false'] : row.choices;
  if (choices) {
    const values = [...new Set([...choices, row.value ?? '', row.default ?? ''])].filter((value) => value !== '' || row.value === null || row.value === '');
    return h('select', fixed, values.map((value) => h('option', { value }, value === '' ? '(not set)' : value)));
  }
  if (row.secret) return h('input', { ...fixed, type: 'password', autocomplete: 'new-password', placeholder: row.value === null || row.value === undefined ? 'not set' : 'set, never shown' });
  return h('input', { ...fixed, type: 'text', autocomplete: 'off', spellcheck: false, inputmode: row.kind === 'number' ? 'numeric' : null, placeholder: row.value === null || row.value === undefined ? 'not set' : null });
}

/** What the server made of a change. */
async function reread(row) {
  const { settings } = await api.get(`${NODE}/_settings`);
  const now = settings.find(({ section, key }) => section === row.section && key === row.key);
  if (now) Object.assign(row, now);
}

