// One field of a conflict: what it was, what each version has, and the choice, as radio buttons side by side.

import { h } from '../dom.js';
import { both, canTakeBoth, MISSING, typed, UNKNOWN } from './merge.js';
import { shown } from './load.js';

/** Characters of a value that are shown until somebody asks for the rest. */
const SHORT = 1500;

let last = 0;

/** The name of a version by its place: A is what everybody sees now. */
export const sideName = (index) => `Version ${String.fromCharCode(65 + index)}`;

/** The path of a field for people; names with unusual characters are quoted. */
export function pathText(path) {
  return path.map((name) => (/^[\p{L}\p{N}_-]+$/u.test(name) ? name : JSON.stringify(name))).join(' › ') || '(the whole document)';
}

/** A value, shortened if it is long. */
export function valueView(value) {
  const text = shown(value);
  const absent = value === MISSING || value === UNKNOWN;
  const pre = h('pre', { class: absent ? 'value absent' : 'value' }, text.slice(0, SHORT));
  if (text.length <= SHORT) return pre;
  const more = h('button', { type: 'button', class: 'link', onclick: () => {
    pre.textContent = text;
    more.remove();
  } }, `Show all ${text.length.toLocaleString()} characters`);
  return h('div', {}, pre, more);
}

function option({ group, label, note, view, checked, choose }) {
  const input = h('input', { type: 'radio', name: group, onchange: choose });
  input.checked = checked;
  const title = h('span', { class: 'choice-title' }, input, h('span', {}, label));
  return h('label', { class: 'choice' }, title, note ? h('small', {}, note) : null, view);
}

/** The choice "write it myself": a text field that opens with the value chosen before. */
function editOption({ group, field, start, choose }) {
  const area = h('textarea', {
    rows: 3, spellcheck: 'false', 'aria-label': `Value of ${pathText(field.path)}`,
    oninput: () => take(),
  });
  const take = () => {
    field.pick = { value: typed(area.value) };
    choose();
  };
  area.hidden = true;
  const label = option({
    group, label: 'Something else', note: 'JSON, or plain text', view: null, checked: false,
    choose: () => {
      area.hidden = false;
      if (area.value === '') {
        const value = start();
        area.value = typeof value === 'symbol' ? '' : shown(value);
      }
      take();
      area.focus();
    },
  });
  const box = h('div', { class: 'choice-edit' }, label, area);
  return { box, area };
}

/**
 * The choice for one field. `describe(value)` shows a value (attachments show type and size); `changed` is called after
 * each choice. `editable` false: only the versions can be chosen.
 */
export function fieldChoice(field, { changed, describe = valueView, editable = true }) {
  last += 1;
  const group = `choice-${last}`;
  let before = field.pick;
  const edit = editable ? editOption({ group, field, start: () => valueOf(before, field), choose: () => refresh() }) : null;
  const refresh = () => {
    box.classList.toggle('decided', field.pick !== null);
    if (edit && !('value' in (field.pick ?? {}))) edit.area.hidden = true;
    changed(field);
  };
  const choose = (pick) => () => {
    field.pick = pick;
    before = pick;
    refresh();
  };
  const options = [];
  if (field.base !== UNKNOWN) {
    options.push(h('div', { class: 'choice before' }, h('span', { class: 'choice-title' }, 'Before'), describe(field.base)));
  }
  field.values.forEach((value, index) => {
    options.push(option({
      group, label: sideName(index), view: describe(value), checked: field.pick?.side === index, choose: choose({ side: index }),
    }));
  });
  if (editable && canTakeBoth(field)) {
    options.push(option({
      group, label: 'Both', note: 'additions and removals of every version', view: describe(both(field.base, field.values)),
      checked: field.pick?.both === true, choose: choose({ both: true }),
    }));
  }
  if (edit) options.push(edit.box);
  const box = h('fieldset', { class: `field-choice ${field.state}` }, h('legend', {}, pathText(field.path)), h('div', { class: 'choices' }, ...options));
  box.classList.toggle('decided', field.pick !== null);
  return box;
}

function valueOf(pick, field) {
  if (pick?.both) return both(field.base, field.values);
  if (pick && 'value' in pick) return pick.value;
  return field.values[pick?.side ?? 0];
}
