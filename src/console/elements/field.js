// Fields of forms: a label, a control, a hint and an error that belong together for a screen reader.

import { freshId, h } from '../dom.js';

/**
 * A field. `type` is a type of `<input>`, or `textarea`, `select` (with `options`: strings or `[value, label]`), `checkbox`.
 * Returns the element, which also has `control`, `value`, and `fail(text)` (no text: no error).
 */
export function field({ label, name, type = 'text', value = '', hint, options, checked, wide, ...more }) {
  const id = freshId('field');
  const control = makeControl({ id, name, type, value, options, checked, more });
  const error = h('p', { class: 'field-error', id: `${id}-error`, hidden: true });
  const note = hint ? h('p', { class: 'hint', id: `${id}-hint` }, hint) : null;
  control.setAttribute('aria-describedby', [note && `${id}-hint`, `${id}-error`].filter(Boolean).join(' '));
  const title = h('label', { for: id }, label);
  const box = h('div', { class: `field ${type}${wide ? ' wide' : ''}` }, type === 'checkbox' ? [control, title] : [title, control], note, error);
  box.control = control;
  box.fail = (text) => {
    error.textContent = text ?? '';
    error.hidden = !text;
    control.setAttribute('aria-invalid', String(Boolean(text)));
    if (text) control.focus();
  };
  Object.defineProperty(box, 'value', {
    get: () => (type === 'checkbox' ? control.checked : control.value),
    set: (next) => { if (type === 'checkbox') control.checked = next; else control.value = next; },
  });
  return box;
}

function makeControl({ id, name, type, value, options, checked, more }) {
  if (type === 'select') {
    const list = (options ?? []).map((option) => {
      const [key, text] = Array.isArray(option) ? option : [option, option];
      return h('option', { value: key }, text);
    });
    const control = h('select', { id, name, ...more }, list);
    if (value !== '') control.value = value;
    return control;
  }
  if (type === 'textarea') return h('textarea', { id, name, rows: 4, spellcheck: false, value, ...more });
  if (type === 'checkbox') return h('input', { id, name, type, checked: Boolean(checked ?? value), ...more });
  return h('input', { id, name, type, value, autocomplete: 'off', autocapitalize: 'none', spellcheck: false, ...more });
}

/** A form whose `submit` calls `action(values)`; the error of a refusal is shown above its buttons. */
export function form({ fields, submit = 'Save', action, extra = [], danger = false }) {
  const problem = h('p', { class: 'form-error', role: 'alert', hidden: true });
  const button = h('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, submit);
  const element = h('form', { class: 'form', novalidate: true }, fields, problem, h('div', { class: 'row' }, button, extra));
  element.fail = (text) => {
    problem.textContent = text ?? '';
    problem.hidden = !text;
  };
  element.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    element.fail();
    for (const each of fields) each.fail?.();
    const missing = fields.find((each) => each.control?.required && !each.value);
    if (missing) {
      missing.fail('This is needed.');
      return;
    }
    button.disabled = true;
    button.setAttribute('aria-busy', 'true');
    try {
      await action(Object.fromEntries(fields.filter((each) => each.control?.name).map((each) => [each.control.name, each.value])), element);
    } catch (error) {
      if (error.name !== 'AbortError') element.fail(error.reason ?? error.message);
    } finally {
      button.disabled = false;
      button.removeAttribute('aria-busy');
    }
  });
  return element;
}
