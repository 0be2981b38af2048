// An independent implementation of CouchDB's revision id (`couch_db:new_revid/1`): the MD5 of the Erlang
// external term `[Deleted, OldStart, OldRev, Body, Atts]`. The tests compare it with the server's
// implementation.

import { createHash } from 'node:crypto';

const u16 = (n) => Buffer.from([n >> 8, n & 255]);
const u32 = (n) => {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(n);
  return out;
};
const atom = (name) => Buffer.concat([Buffer.from([100]), u16(name.length), Buffer.from(name)]);
const binary = (bytes) => Buffer.concat([Buffer.from([109]), u32(bytes.length), bytes]);
const tuple = (...items) => Buffer.concat([Buffer.from([104, items.length]), ...items]);

function list(items) {
  if (items.length === 0) return Buffer.from([106]);
  return Buffer.concat([Buffer.from([108]), u32(items.length), ...items, Buffer.from([106])]);
}

function integer(value) {
  let n = BigInt(value);
  if (n >= 0n && n < 256n) return Buffer.from([97, Number(n)]);
  if (n >= -(2n ** 31n) && n < 2n ** 31n) {
    const out = Buffer.alloc(5);
    out[0] = 98;
    out.writeInt32BE(Number(n), 1);
    return out;
  }
  const sign = n < 0n ? 1 : 0;
  if (n < 0n) n = -n;
  const digits = [];
  while (n > 0n) {
    digits.push(Number(n & 255n));
    n >>= 8n;
  }
  return Buffer.from([110, digits.length, sign, ...digits]);
}

/** Erlang encodes every non-empty list of integers below 256 as STRING_EXT, even if it is not a string. */
function array(items) {
  const bytes = items.every((item) => typeof item === 'number' && Number.isInteger(item) && item >= 0 && item < 256);
  if (bytes && items.length > 0 && items.length < 65536) {
    return Buffer.concat([Buffer.from([107]), u16(items.length), Buffer.from(items)]);
  }
  return list(items.map(json));
}

export class Float {
  constructor(value) {
    this.value = value;
  }
}

function json(value) {
  if (value === null || typeof value === 'boolean') return atom(String(value));
  if (typeof value === 'string') return binary(Buffer.from(value));
  if (value instanceof Float) {
    const out = Buffer.alloc(9);
    out[0] = 70;
    out.writeDoubleBE(value.value, 1);
    return out;
  }
  if (typeof value === 'bigint') return integer(value);
  if (typeof value === 'number') return Number.isInteger(value) ? integer(value) : json(new Float(value));
  if (Array.isArray(value)) return array(value);
  return tuple(list(Object.entries(value).map(([key, item]) => tuple(json(key), json(item)))));
}

/**
 * Computes the revision of an edit with `body` (without `_` members) and the parent revision `parent`
 * ('2-abc...' or null). `attachments` is `[{name, type, md5: Buffer}]`, in the order in which CouchDB stores
 * them.
 */
export function revision(body, { parent = null, deleted = false, attachments = [] } = {}) {
  const start = parent ? Number(parent.split('-')[0]) : 0;
  const old = parent ? binary(Buffer.from(parent.split('-')[1], 'hex')) : integer(0);
  const atts = attachments.map(({ name, type, md5 }) =>
    tuple(binary(Buffer.from(name)), binary(Buffer.from(type)), binary(md5)),
  );
  const term = list([atom(String(deleted)), integer(start), old, json(body), list(atts)]);
  const hash = createHash('md5').update(Buffer.concat([Buffer.from([131]), term])).digest('hex');
  return `${start + 1}-${hash}`;
}
