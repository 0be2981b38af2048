// Tables: a native `<table>` with paging, selection and arrow keys.

import { freshId, h, put } from '../dom.js';
import { empty } from './states.js';

/**
 * A table. `columns` are `{label, cell(row) -> text or node, class, numeric, minor}`; `minor` columns disappear on narrow
 * windows. `rows` are any values; `key(row)` names a row for the selection; `href(row)` makes the first cell a link, which
 * arrow keys move between. `selectable` adds check boxes; `onselect(set of keys)` hears of changes. `none` is `{title,
 * text, actions}` for an empty table. `pager` is `{from, shown, total, previous, next}` (see `pager`). `update(rows)`
 * shows other rows.
 */
export function dataTable({ label, columns, rows, key = (row) => row.id, href, selectable = false, onselect, none, pager: pages, rowClass }) {
  const body = h('tbody');
  const chosen = new Set();
  const all = h('input', { type: 'checkbox', 'aria-label': 'Select all rows of this page' });
  const head = h('thead', {}, h('tr', {}, selectable ? h('th', { class: 'tick', scope: 'col' }, all) : null,
    columns.map((column) => h('th', { scope: 'col', class: classes(column) }, column.label || h('span', { class: 'offscreen' }, 'Actions')))));
  const caption = freshId('table');
  const table = h('table', { 'aria-labelledby': caption }, h('caption', { class: 'offscreen', id: caption }, label), head, body);
  const frame = h('div', { class: 'table-frame', tabindex: '0', role: 'region', 'aria-labelledby': caption }, table);
  const box = h('div', { class: 'table-box' }, frame);
  let present = [];

  const tell = () => {
    all.checked = present.length > 0 && present.every((row) => chosen.has(key(row)));
    all.indeterminate = !all.checked && chosen.size > 0;
    onselect?.(chosen);
  };
  const line = (row) => {
    const tick = selectable ? h('input', { type: 'checkbox', checked: chosen.has(key(row)), 'aria-label': `Select ${key(row)}` }) : null;
    tick?.addEventListener('change', () => {
      if (tick.checked) chosen.add(key(row));
      else chosen.delete(key(row));
      tell();
    });
    return h('tr', { class: rowClass?.(row) ?? '' }, tick ? h('td', { class: 'tick' }, tick) : null, columns.map((column, at) => {
      const content = column.cell(row);
      const linked = at === 0 && href ? h('a', { href: href(row), class: 'row-link' }, content) : content;
      return h(at === 0 ? 'th' : 'td', { class: classes(column), scope: at === 0 ? 'row' : null }, linked);
    }));
  };
  all.addEventListener('change', () => {
    for (const row of present) {
      if (all.checked) chosen.add(key(row));
      else chosen.delete(key(row));
    }
    put(body, present.map(line));
    tell();
  });
  box.selected = chosen;
  box.update = (next, nextPager = pages) => {
    present = next;
    for (const each of [...chosen]) if (!next.some((row) => key(row) === each)) chosen.delete(each);
    if (next.length === 0 && none) {
      put(box, empty(none), nextPager && nextPager.previous ? pager(nextPager) : null);
    } else {
      put(body, next.map(line));
      put(box, frame, nextPager ? pager(nextPager) : null);
    }
    if (selectable) tell();
  };
  table.addEventListener('keydown', moveByArrows);
  if (href) body.addEventListener('click', openRow);
  box.update(rows);
  return box;
}

const classes = ({ class: own = '', numeric, minor }) => [own, numeric && 'numeric', minor && 'minor'].filter(Boolean).join(' ');

/** A click beside the controls of a row opens it too; not one that ends the selection of a text. */
function openRow(event) {
  if (event.target.closest('a, button, input, label') || String(getSelection())) return;
  event.target.closest('tr')?.querySelector('.row-link')?.click();
}

/** Arrow keys move between the same controls of neighbouring rows; Home and End go to the first and the last row. */
function moveByArrows(event) {
  const row = event.target.closest('tbody tr');
  const step = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
  if (!row || !step || event.target.matches('input:not([type=checkbox]), textarea, select')) return;
  const rows = [...row.parentElement.rows];
  const next = rows[Math.min(rows.length - 1, Math.max(0, rows.indexOf(row) + step))];
  const controls = (of) => [...of.querySelectorAll('a, button, input')];
  const wanted = controls(next)[controls(row).indexOf(event.target)] ?? controls(next)[0];
  if (!wanted) return;
  wanted.focus();
  event.preventDefault();
}

/**
 * The line below a table: which rows are shown, and the buttons to the others. `previous` and `next` are addresses or
 * functions, null where there are none; `total` may be null when nobody knows it.
 */
export function pager({ from, shown, total, previous, next, what = 'rows' }) {
  const number = new Intl.NumberFormat('en');
  const rows = from == null ? number.format(shown) : `${number.format(from)}–${number.format(from + shown - 1)}`;
  const text = shown === 0 ? `No ${what}` : `${rows}${total == null ? '' : ` of ${number.format(total)}`} ${what}`;
  const button = (label, target) => {
    if (typeof target === 'string') return h('a', { class: 'button small', href: target }, label);
    return h('button', { type: 'button', class: 'small', disabled: !target, onclick: target ?? null }, label);
  };
  return h('div', { class: 'pager' }, h('span', { class: 'quiet' }, text), h('span', { class: 'row' }, button('Previous', previous), button('Next', next)));
}
