// The three-way merge of versions of a document: pure functions on values of json.js.
//
// `base` is the body of the common ancestor, or UNKNOWN where it is not there any more; `sides` are the bodies of
// the versions, the server's winner first. A *node* is one place of the document:
//
//   {kind: 'object', children: Map of name to node}    every side has an object here: its members merge one by one
//   {kind: 'field', path, base, values, state, pick}   everything else
//
//   state    'same'      no version differs
//            'merged'    only one version changed it, or all changed it to the same: that change counts
//            'decide'    versions disagree: somebody must choose
//   pick     {side: index}, {both: true}, {value}, or null where nobody has chosen

import { canonicalNumber, equal, NumberText, parse, write } from '../json.js';

/** The place of a member that is not there. */
export const MISSING = Symbol('missing');
/** The place of a member of an ancestor whose body is gone. */
export const UNKNOWN = Symbol('unknown');

const same = (left, right) => left === right || (typeof left !== 'symbol' && typeof right !== 'symbol' && equal(left, right));

/** Merges versions; `sides` has at least two bodies without members that begin with `_`. */
export function merge(base, sides) {
  return mergeNode([], base, sides);
}

function mergeNode(path, base, values) {
  const objects = values.every((value) => value instanceof Map);
  if (objects && (base instanceof Map || base === MISSING || base === UNKNOWN)) {
    const children = new Map();
    for (const name of mergedOrder(values)) {
      const sides = values.map((value) => (value.has(name) ? value.get(name) : MISSING));
      children.set(name, mergeNode([...path, name], memberOf(base, name), sides));
    }
    return { kind: 'object', path, children };
  }
  return field(path, base, values);
}

function memberOf(base, name) {
  if (base === UNKNOWN) return UNKNOWN;
  return base instanceof Map && base.has(name) ? base.get(name) : MISSING;
}

function field(path, base, values) {
  const [first, ...rest] = values;
  if (rest.every((value) => same(first, value))) {
    return { kind: 'field', path, base, values, state: same(base, first) || base === UNKNOWN ? 'same' : 'merged', pick: { side: 0 } };
  }
  const [one, ...others] = [...values.keys()].filter((index) => base === UNKNOWN || !same(base, values[index]));
  const agreed = base !== UNKNOWN && others.every((index) => same(values[one], values[index]));
  return { kind: 'field', path, base, values, state: agreed ? 'merged' : 'decide', pick: agreed ? { side: one } : null };
}

/** The names of all objects: in the order of the first, others' new names behind their predecessors. */
function mergedOrder(objects) {
  const next = new Map(); // a linked list: 10,000 members in each version stay cheap
  let previous = MISSING;
  for (const object of objects) {
    previous = MISSING;
    for (const name of object.keys()) {
      if (!next.has(name)) {
        next.set(name, next.get(previous));
        next.set(previous, name);
      }
      previous = name;
    }
  }
  const order = [];
  for (let name = next.get(MISSING); name !== undefined; name = next.get(name)) order.push(name);
  return order;
}

/** All fields below a node, in order. */
export function* fields(node) {
  if (node.kind === 'field') yield node;
  else for (const child of node.children.values()) yield* fields(child);
}

/** Fields on which somebody must still decide. */
export function undecided(node) {
  return [...fields(node)].filter((field) => field.pick === null);
}

/** Whether `both` is a choice: every version has an array, or does not have the member. */
export function canTakeBoth(field) {
  const present = field.values.filter((value) => value !== MISSING);
  return present.length > 1 && present.every((value) => Array.isArray(value));
}

/** What a field becomes; MISSING: the member goes. */
export function chosen(field) {
  if (field.pick === null) return field.values[0];
  if ('value' in field.pick) return field.pick.value;
  if (field.pick.both) return both(field.base, field.values);
  return field.values[field.pick.side];
}

/** The merged body: a Map, or what one field makes of the whole document. `open` stands for what is undecided. */
export function merged(node, open) {
  if (node.kind === 'field') return node.pick === null && open !== undefined ? open : chosen(node);
  const object = new Map();
  for (const [name, child] of node.children) {
    const value = merged(child, open);
    if (value !== MISSING) object.set(name, value);
  }
  return object;
}

/**
 * The changes of all arrays together: what one of them removed goes, what one of them added comes, in the order of the
 * first. Items that are there several times count several times; the same item added by two versions comes once.
 */
export function both(base, values) {
  const [first, ...others] = values.filter(Array.isArray);
  const before = count(Array.isArray(base) ? base : []);
  const inFirst = count(first);
  const removed = new Map();
  const added = [];
  const extra = new Map(); // added so far beyond the base, by text
  for (const [text, number] of inFirst) extra.set(text, number - (before.get(text) ?? 0));
  for (const other of others) {
    const inOther = count(other);
    for (const [text, number] of before) {
      const gone = number - (inOther.get(text) ?? 0);
      if (gone > (removed.get(text) ?? 0)) removed.set(text, gone);
    }
    const seen = new Map();
    for (const item of other) {
      const text = canonical(item);
      seen.set(text, (seen.get(text) ?? 0) + 1);
      const beyond = seen.get(text) - (before.get(text) ?? 0);
      if (beyond > Math.max(extra.get(text) ?? 0, 0)) {
        extra.set(text, beyond);
        added.push(item);
      }
    }
  }
  const kept = first.filter((item) => {
    const text = canonical(item);
    // What the first version itself removed is not removed twice.
    const own = Math.max((before.get(text) ?? 0) - (inFirst.get(text) ?? 0), 0);
    const left = (removed.get(text) ?? 0) - own;
    if (left <= 0) return true;
    removed.set(text, (removed.get(text) ?? 0) - 1);
    return false;
  });
  return [...kept, ...added];
}

function count(items) {
  const counts = new Map();
  for (const item of items) {
    const text = canonical(item);
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return counts;
}

/** The text by which items of arrays are compared: members in the order of their names. */
function canonical(value) {
  return write(sorted(value));
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value instanceof NumberText) return new NumberText(canonicalNumber(value.text));
  if (!(value instanceof Map)) return value;
  return new Map([...value].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, item]) => [name, sorted(item)]));
}

/** What somebody typed into a field: JSON, or else a plain string. */
export function typed(text) {
  try {
    return parse(text);
  } catch {
    return text;
  }
}

/** Chooses one side for all fields that are undecided (or for all, with `all`). */
export function takeSide(node, side, { all = false } = {}) {
  for (const field of fields(node)) {
    if (field.state !== 'decide') continue;
    if (all || field.pick === null) field.pick = { side };
  }
}
