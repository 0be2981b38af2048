// JSON to read: a tree that opens and closes, in the order and with the digits of the text. Large objects and arrays are
// filled when they are opened, a hundred members at a time; long strings are shortened until they are asked for.

import { h, put } from '../dom.js';
import { NumberText, write } from '../json.js';

const MEMBERS = 100;
const CHARACTERS = 400;

/** Shows a value of json.js. `open` is the depth to which it is open at first. */
export const jsonView = (value, { open = 2 } = {}) => h('div', { class: 'json-view' }, node(value, open));

function node(value, open, name) {
  const label = name === undefined ? null : [h('span', { class: 'json-key' }, typeof name === 'number' ? String(name) : JSON.stringify(name)), ': '];
  if (value instanceof Map || Array.isArray(value)) return branch(value, open, label);
  return h('div', { class: 'json-line' }, label, scalar(value));
}

function branch(value, open, label) {
  const list = value instanceof Map;
  const size = list ? value.size : value.length;
  const [from, to] = list ? ['{', '}'] : ['[', ']'];
  if (size === 0) return h('div', { class: 'json-line' }, label, `${from}${to}`);
  const members = h('div', { class: 'json-members' });
  const fill = () => {
    if (!members.hasChildNodes()) more(members, value.entries(), size, open - 1);
  };
  const details = h('details', { open: open > 0, ontoggle: fill },
    h('summary', {}, label, from, h('span', { class: 'quiet json-size' }, ` ${size} ${list ? (size === 1 ? 'member' : 'members') : (size === 1 ? 'item' : 'items')} `), to), members);
  if (open > 0) fill();
  return details;
}

function more(members, entries, left, open) {
  const parts = document.createDocumentFragment();
  let taken = 0;
  for (; taken < Math.min(MEMBERS, left); taken += 1) {
    const { value: [name, value] } = entries.next();
    parts.append(node(value, open, name));
  }
  members.append(parts);
  const rest = left - taken;
  if (rest <= 0) return;
  const button = h('button', { type: 'button', class: 'small' }, `Show ${Math.min(rest, MEMBERS)} of ${rest} more`);
  button.addEventListener('click', () => {
    button.remove();
    more(members, entries, rest, open);
    members.querySelector('button:last-child')?.focus();
  });
  members.append(button);
}

function scalar(value) {
  if (typeof value === 'string') return text(value);
  const kind = value instanceof NumberText ? 'json-number' : 'json-word';
  return h('span', { class: kind }, value instanceof NumberText ? value.text : String(value));
}

function text(value) {
  if (value.length <= CHARACTERS) return h('span', { class: 'json-string' }, JSON.stringify(value));
  const shown = h('span', { class: 'json-string' }, JSON.stringify(value.slice(0, CHARACTERS)));
  const whole = Math.min(value.length, 100_000);
  const button = h('button', { type: 'button', class: 'small' }, value.length > whole ? `Show ${whole} of ${value.length} characters` : `Show all ${value.length} characters`);
  button.addEventListener('click', () => {
    put(shown, JSON.stringify(value.slice(0, whole)));
    button.remove();
  });
  return [shown, ' … ', button];
}

/** A value on one line, for a cell of a table: shortened to `limit` characters. `exact`: strings in quotes, as in JSON. */
export function brief(value, limit = 80, exact = false) {
  if (value === undefined) return '';
  let all;
  if (typeof value === 'string' && exact) all = JSON.stringify(value.slice(0, limit + 1));
  else if (typeof value === 'string') all = value.length > limit ? value.slice(0, limit + 1) : value;
  else if (value instanceof Map && value.size > 50) all = `{ ${value.size} members }`;
  else if (Array.isArray(value) && value.length > 50) all = `[ ${value.length} items ]`;
  else all = write(shallow(value));
  return all.length > limit ? `${all.slice(0, limit)}…` : all;
}

/** Long strings and large members of a value are cut, so that writing it costs little. */
function shallow(value, depth = 0) {
  if (typeof value === 'string') return value.length > 200 ? value.slice(0, 200) : value;
  if (!(value instanceof Map) && !Array.isArray(value)) return value;
  if (depth > 3) return value instanceof Map ? '{…}' : '[…]';
  if (Array.isArray(value)) return value.slice(0, 20).map((each) => shallow(each, depth + 1));
  return new Map([...value].slice(0, 20).map(([name, each]) => [name, shallow(each, depth + 1)]));
}
