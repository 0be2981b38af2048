// JSON without losses. `JSON.parse` rounds whole numbers above 2^53, moves members with names like "1" to the
// front, and loses the spelling of numbers; a console that saves what it shows must do none of that.
//
//   object   Map, in the order of the text; the last of several equal names counts, as on the server
//   array    Array
//   number   NumberText, which keeps the digits as they were written
//   string, boolean, null    themselves

/** A number as it was written. */
export class NumberText {
  constructor(text) {
    this.text = text;
  }

  toString() {
    return this.text;
  }
}

/** A text that is not JSON, with the place of the error: `line` and `column` count from 1. */
export class JsonError extends SyntaxError {
  constructor(message, text, offset) {
    const before = text.slice(0, offset);
    const line = before.split('\n').length;
    const column = offset - before.lastIndexOf('\n');
    super(`${message} (line ${line}, column ${column})`);
    this.name = 'JsonError';
    this.offset = offset;
    this.line = line;
    this.column = column;
  }
}

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
// Everything up to the closing quote; JSON.parse then checks the escapes.
const STRING = /"(?:[^"\\\u0000-\u001f]|\\[^\u0000-\u001f])*"/y;
const WORDS = new Map([['true', true], ['false', false], ['null', null]]);

class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  fail(message, offset = this.at) {
    throw new JsonError(message, this.text, offset);
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found?.[0];
  }

  /** Skips white space and returns the next character, or '' at the end. */
  next() {
    this.take(SPACE);
    return this.text[this.at] ?? '';
  }

  string() {
    const start = this.at;
    const quoted = this.take(STRING);
    if (quoted === undefined) this.fail('this string does not end on its line');
    try {
      return JSON.parse(quoted);
    } catch {
      return this.fail('this string has an unknown escape', start);
    }
  }

  /** A value that is neither object nor array. */
  scalar() {
    const first = this.text[this.at];
    if (first === '"') return this.string();
    const number = this.take(NUMBER);
    if (number !== undefined) return new NumberText(number);
    for (const [word, value] of WORDS) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.fail(first === undefined ? 'the text ends too early' : 'a value is expected here');
  }

  /** The name of a member and its colon. */
  name() {
    if (this.next() !== '"') this.fail('the name of a member, in double quotes, is expected here');
    const name = this.string();
    if (this.next() !== ':') this.fail('a colon is expected here');
    this.at += 1;
    return name;
  }
}

/** Parses one JSON value. Objects and arrays that are open stand on a stack of our own: no text is too deep. */
export function parse(text) {
  const reader = new Reader(text);
  const open = []; // {value, name}: the objects and arrays around the current place
  for (;;) {
    let value;
    const first = reader.next();
    if (first === '{' || first === '[') {
      reader.at += 1;
      const frame = { value: first === '{' ? new Map() : [], close: first === '{' ? '}' : ']', name: null };
      if (reader.next() !== frame.close) {
        if (frame.close === '}') frame.name = reader.name();
        open.push(frame);
        continue;
      }
      reader.at += 1;
      value = frame.value;
    } else {
      value = reader.scalar();
    }
    if (finish(reader, open, value)) return open.result;
  }
}

/** Puts a complete value where it belongs, closes what ends after it; true at the end of the text. */
function finish(reader, open, complete) {
  let value = complete;
  for (;;) {
    const frame = open.at(-1);
    if (!frame) {
      if (reader.next() !== '') reader.fail('nothing may follow the value');
      open.result = value;
      return true;
    }
    if (frame.close === '}') frame.value.set(frame.name, value);
    else frame.value.push(value);
    const after = reader.next();
    if (after === ',') {
      reader.at += 1;
      if (frame.close === '}') frame.name = reader.name();
      return false;
    }
    if (after !== frame.close) reader.fail(`a comma or ${frame.close} is expected here`);
    reader.at += 1;
    value = open.pop().value;
  }
}

/** Writes a value as JSON; `indent` is the number of spaces of a level, 0 for one line. */
export function write(value, indent = 0) {
  const parts = [];
  const gap = indent > 0 ? ': ' : ':';
  const lineOf = (depth) => (indent > 0 ? `\n${' '.repeat(indent * depth)}` : '');
  const open = []; // {entries: iterator, close, some}
  let current = value;
  for (;;) {
    if (current instanceof Map || Array.isArray(current)) {
      const map = current instanceof Map;
      parts.push(map ? '{' : '[');
      open.push({ entries: current.entries(), map, some: false });
    } else {
      parts.push(scalarText(current));
    }
    for (;;) {
      const frame = open.at(-1);
      if (!frame) return parts.join('');
      const { done, value: entry } = frame.entries.next();
      if (!done) {
        parts.push(frame.some ? ',' : '', lineOf(open.length));
        if (frame.map) parts.push(JSON.stringify(entry[0]), gap);
        frame.some = true;
        [, current] = entry;
        break;
      }
      open.pop();
      parts.push(frame.some ? lineOf(open.length) : '', frame.map ? '}' : ']');
    }
  }
}

function scalarText(value) {
  if (value instanceof NumberText) return value.text;
  if (value === undefined) return 'null';
  return JSON.stringify(value);
}

/** One spelling for each number: 1, 1.0 and 10e-1 are "1e0". Exact, whatever the number of digits. */
export function canonicalNumber(text) {
  const [, sign, whole, fraction = '', exponent = '0'] = /^(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$/.exec(text);
  const digits = (whole + fraction).replace(/^0+/, '');
  const short = digits.replace(/0+$/, '');
  if (short === '') return '0';
  return `${sign}${short}e${BigInt(exponent) - BigInt(fraction.length) + BigInt(digits.length - short.length)}`;
}

const sameNumber = (a, b) => a.text === b.text || canonicalNumber(a.text) === canonicalNumber(b.text);

/** Whether two values are equal: neither the order of members nor the spelling of numbers counts. */
export function equal(left, right) {
  const pairs = [[left, right]];
  while (pairs.length > 0) {
    const [a, b] = pairs.pop();
    if (a === b) continue;
    if (a instanceof NumberText && b instanceof NumberText) {
      if (!sameNumber(a, b)) return false;
    } else if (a instanceof Map && b instanceof Map) {
      if (a.size !== b.size) return false;
      for (const [name, value] of a) {
        if (!b.has(name)) return false;
        pairs.push([value, b.get(name)]);
      }
    } else if (Array.isArray(a) && Array.isArray(b)) {
      if (a.length !== b.length) return false;
      a.forEach((value, index) => pairs.push([value, b[index]]));
    } else {
      return false;
    }
  }
  return true;
}

/** A value of JavaScript (plain objects, numbers) as a value of this module. */
export function from(value) {
  return parse(JSON.stringify(value));
}
