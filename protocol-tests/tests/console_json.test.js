// The console's JSON (src/console/json.js): nothing of a document changes on its way through an editor.

import { test } from 'node:test';
import assert from 'node:assert/strict';
import { canonicalNumber, equal, from, JsonError, NumberText, parse, write } from '../../src/console/json.js';

test('numbers, the order of members and escapes survive', () => {
  for (const text of [
    '{"id":9007199254740993,"price":1.10,"tiny":1e-400,"negative":-0,"huge":1E+2}',
    '{"b":1,"10":2,"2":3,"a":4}',
    '{"__proto__":{"x":1},"constructor":null,"":[]}',
    '[[],{},[{}],"",true,false,null]',
    '"\\u2028 \\ud800 \\"quoted\\" \\\\ /"'.replace('\\u2028', '\u2028'),
  ]) {
    assert.equal(write(parse(text)), text);
    assert.equal(write(parse(write(parse(text), 2))), text);
  }
});

test('written with an indent, JSON looks as everybody writes it', () => {
  const value = { a: [1, { b: 'x' }], empty: {}, none: [] };
  assert.equal(write(from(value), 2), JSON.stringify(value, null, 2));
});

test('the last of several equal names counts', () => {
  assert.equal(write(parse('{"a":1,"b":2,"a":3}')), '{"a":3,"b":2}');
});

test('no text is too deep', () => {
  const deep = '['.repeat(200_000) + ']'.repeat(200_000);
  assert.equal(write(parse(deep)), deep);
  assert.ok(equal(parse(deep), parse(deep)));
});

test('an error says its line and column', () => {
  const rows = [
    ['', 1, 1, /ends too early/],
    ['{\n  "a": 1,\n}', 3, 1, /name of a member/],
    ['{"a" 1}', 1, 6, /colon/],
    ['[1 2]', 1, 4, /comma or \]/],
    ['{"a":1]', 1, 7, /comma or \}/],
    ['[1,]', 1, 4, /value is expected/],
    ['[01]', 1, 3, /comma/],
    ['[NaN]', 1, 2, /value/],
    ['"a\nb"', 1, 1, /does not end on its line/],
    ['["\\x"]', 1, 2, /escape/],
    ['1 1', 1, 3, /nothing may follow/],
  ];
  for (const [text, line, column, message] of rows) {
    assert.throws(() => parse(text), (error) => {
      assert.ok(error instanceof JsonError && error instanceof SyntaxError, text);
      assert.deepEqual([error.line, error.column], [line, column], text);
      assert.match(error.message, message, text);
      return true;
    });
  }
});

test('a random document survives, and is equal to itself in any order', () => {
  let seed = 7;
  const random = (below) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  const value = (depth) => {
    const kind = random(depth > 0 ? 7 : 5);
    if (kind === 0) return random(1000) - 500;
    if (kind === 1) return `text ${String.fromCharCode(random(0x3000))}`;
    if (kind === 2) return random(2) === 0;
    if (kind === 3) return null;
    if (kind === 4) return random(100) / 7;
    const items = Array.from({ length: random(5) }, () => value(depth - 1));
    return kind === 5 ? items : Object.fromEntries(items.map((item, index) => [`name${index}`, item]));
  };
  for (let round = 0; round < 500; round += 1) {
    const original = value(5);
    const parsed = parse(JSON.stringify(original));
    assert.deepEqual(JSON.parse(write(parsed, round % 4)), original);
    const turned = parse(JSON.stringify(original, null, 1));
    assert.ok(equal(parsed, turned));
  }
});

test('equal compares values, not spellings', () => {
  const rows = [
    ['{"a":1,"b":2}', '{"b":2,"a":1}', true],
    ['1', '1.0', true],
    ['100', '1e2', true],
    ['-0.50', '-5e-1', true],
    ['0', '-0.0', true],
    ['9007199254740993', '9007199254740992', false],
    ['"1"', '1', false],
    ['[1,2]', '[2,1]', false],
    ['{"a":null}', '{}', false],
    ['{}', '[]', false],
    ['{"a":1}', '{"b":1}', false],
  ];
  for (const [left, right, expected] of rows) {
    assert.equal(equal(parse(left), parse(right)), expected, `${left} ${right}`);
    assert.equal(equal(parse(right), parse(left)), expected, `${right} ${left}`);
  }
  assert.equal(canonicalNumber('1e999999999999999999'), '1e999999999999999999');
  assert.equal(String(new NumberText('1.50')), '1.50');
});
