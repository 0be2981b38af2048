// The console's three-way merge (src/console/conflict/): pure functions, without a server.

import { test } from 'node:test';
import assert from 'node:assert/strict';
import { parse, write } from '../../src/console/json.js';
import { both, canTakeBoth, fields, merge, merged, MISSING, takeSide, typed, undecided, UNKNOWN } from '../../src/console/conflict/merge.js';
import {
  attachmentsOf, bodyOf, commonAncestor, isDeletionOf, mergedAttachments, pathOf, resolution,
} from '../../src/console/conflict/revisions.js';

const of = (base, ...sides) => merge(base === null ? UNKNOWN : parse(base), sides.map((side) => parse(side)));
const open = (node) => undecided(node).map((field) => field.path.join('/'));

test('what only one version changed is merged without a question', () => {
  const node = of(
    '{"title":"a","n":9007199254740993,"gone":1,"deep":{"x":1,"y":1}}',
    '{"title":"b","n":9007199254740993,"gone":1,"deep":{"x":2,"y":1}}',
    '{"title":"a","n":9007199254740993,"deep":{"x":1,"y":3},"new":[1]}',
  );
  assert.deepEqual(open(node), []);
  assert.equal(write(merged(node)), '{"title":"b","n":9007199254740993,"deep":{"x":2,"y":3},"new":[1]}');
  assert.deepEqual(
    [...fields(node)].map((field) => [field.path.join('/'), field.state]),
    [['title', 'merged'], ['n', 'same'], ['gone', 'merged'], ['deep/x', 'merged'], ['deep/y', 'merged'], ['new', 'merged']],
  );
});

test('what versions changed to different values must be decided', () => {
  const rows = [
    ['changed twice', '{"a":1}', '{"a":2}', '{"a":3}', ['a']],
    ['changed to the same', '{"a":1}', '{"a":2}', '{"a":2.0}', []],
    ['deleted and changed', '{"a":1}', '{}', '{"a":3}', ['a']],
    ['deleted twice', '{"a":1}', '{}', '{}', []],
    ['added twice', '{}', '{"a":2}', '{"a":3}', ['a']],
    ['added as objects', '{}', '{"a":{"x":1}}', '{"a":{"y":1}}', []],
    ['added as objects that differ', '{}', '{"a":{"x":1}}', '{"a":{"x":2}}', ['a/x']],
    ['object against text', '{"a":{"x":1}}', '{"a":{"x":2}}', '{"a":"t"}', ['a']],
    ['arrays', '{"a":[1]}', '{"a":[1,2]}', '{"a":[1,3]}', ['a']],
    ['no ancestor', null, '{"a":1,"b":1}', '{"a":1,"b":2}', ['b']],
    ['no ancestor, one has more', null, '{"a":1}', '{"a":1,"b":2}', ['b']],
    ['spelled otherwise only', '{"a":1.0}', '{"a":1}', '{"a":2}', []],
  ];
  for (const [name, base, left, right, expected] of rows) assert.deepEqual(open(of(base, left, right)), expected, name);
});

test('three versions merge at once', () => {
  const node = of('{"a":1,"b":1,"c":1}', '{"a":2,"b":1,"c":1}', '{"a":1,"b":2,"c":5}', '{"a":1,"b":1,"c":6}');
  assert.deepEqual(open(node), ['c']);
  takeSide(node, 2);
  assert.equal(write(merged(node)), '{"a":2,"b":2,"c":6}');
});

test('a choice counts: mine, theirs, both, a value of one\'s own', () => {
  const node = of('{"t":["x","y"],"n":1}', '{"t":["x","y","mine"],"n":2}', '{"t":["y","theirs"],"n":3}');
  const [tags, number] = undecided(node);
  assert.ok(canTakeBoth(tags) && !canTakeBoth(number));
  const rows = [
    [{ side: 0 }, { side: 1 }, '{"t":["x","y","mine"],"n":3}'],
    [{ side: 1 }, { side: 0 }, '{"t":["y","theirs"],"n":2}'],
    [{ both: true }, { value: typed('9007199254740995') }, '{"t":["y","mine","theirs"],"n":9007199254740995}'],
    [{ both: true }, { value: typed('not JSON') }, '{"t":["y","mine","theirs"],"n":"not JSON"}'],
    [{ value: MISSING }, { value: typed('{"a":1}') }, '{"n":{"a":1}}'],
  ];
  for (const [first, second, expected] of rows) {
    tags.pick = first;
    number.pick = second;
    assert.equal(write(merged(node)), expected);
    assert.deepEqual(open(node), []);
  }
});

test('both arrays: additions and removals of each count once', () => {
  const rows = [
    ['[]', ['[1]', '[2]'], '[1,2]'],
    ['[]', ['[1]', '[1.0]'], '[1]'],
    ['[1,1]', ['[1,1,1]', '[1,1]'], '[1,1,1]'],
    ['[1,2,3]', ['[1,3]', '[1,2]'], '[1]'],
    ['[1,2]', ['[2]', '[2]'], '[2]'],
    ['[1,1]', ['[1]', '[1]'], '[1]'],
    ['[{"a":1,"b":2}]', ['[{"b":2,"a":1}]', '[{"a":1,"b":2},{"c":3}]'], '[{"b":2,"a":1},{"c":3}]'],
    ['["1e0"]', ['["1e0",1]', '["1e0",2]'], '["1e0",1,2]'],
    ['[1]', ['[1,2]', '[1,3]', '[4]'], '[2,3,4]'],
  ];
  for (const [base, sides, expected] of rows) {
    assert.equal(write(both(parse(base), sides.map((side) => parse(side)))), expected, `${base} ${sides}`);
  }
  assert.equal(write(both(UNKNOWN, [parse('[1,2]'), parse('[2,3]')])), '[1,2,3]');
  assert.equal(write(both(MISSING, [MISSING, parse('[2]'), parse('[3]')])), '[2,3]');
});

test('members keep the order of the winner, new ones come behind their neighbours', () => {
  const node = of('{"z":1,"a":1}', '{"z":1,"10":1,"a":1,"__proto__":1}', '{"first":1,"z":1,"a":1,"b":1}');
  assert.equal(write(merged(node)), '{"first":1,"z":1,"10":1,"a":1,"b":1,"__proto__":1}');
});

test('ten thousand members merge in a moment', () => {
  const text = (from) => `{${Array.from({ length: 10_000 }, (_, n) => `"name${n + from}":${n}`).join(',')}}`;
  const begin = performance.now();
  const node = of(text(0), text(0), text(5000));
  assert.equal([...fields(node)].length, 15_000);
  assert.ok(performance.now() - begin < 2000);
});

/** A merge of random edits gives every version's edit, where no two versions changed the same member. */
test('independent edits of the same document never get lost', () => {
  let seed = 3;
  const random = (below) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  for (let round = 0; round < 300; round += 1) {
    const base = Object.fromEntries(Array.from({ length: 12 }, (_, n) => [`m${n}`, random(9)]));
    const sides = [{ ...base }, { ...base }, { ...base }];
    const expected = { ...base };
    for (let n = 0; n < 12; n += 1) {
      const side = sides[random(3)];
      const name = `m${n}`;
      const what = random(3);
      if (what === 0) {
        side[name] = expected[name] = 100 + round;
      } else if (what === 1) {
        delete side[name];
        delete expected[name];
      }
      if (random(4) === 0) side[`new${n}`] = expected[`new${n}`] = n;
    }
    const node = of(JSON.stringify(base), ...sides.map((side) => JSON.stringify(side)));
    assert.deepEqual(open(node), []);
    assert.deepEqual(JSON.parse(write(merged(node))), expected);
  }
});

const leaf = (rev, ids, extra = '') => {
  const start = Number.parseInt(rev, 10);
  return parse(`{"_id":"d","_rev":"${rev}","_revisions":{"start":${start},"ids":${JSON.stringify(ids)}}${extra}}`);
};

test('the common ancestor is the newest revision that all paths have', () => {
  const rows = [
    [[['3-c', '2-b', '1-a'], ['3-d', '2-b', '1-a']], '2-b'],
    [[['3-c', '2-b', '1-a'], ['2-x', '1-a'], ['3-d', '2-b', '1-a']], '1-a'],
    [[['1-a'], ['1-b']], null],
    [[['3-c', '2-b'], ['3-d', '2-e']], null],
    [[['2-b', '1-a'], ['3-c', '2-b', '1-a']], '2-b'],
  ];
  for (const [paths, expected] of rows) assert.equal(commonAncestor(paths), expected);
  assert.deepEqual(pathOf(leaf('3-c', ['c', 'b', 'a'])), ['3-c', '2-b', '1-a']);
});

test('a tombstone under the branch is a deletion, one under a version is the record of a merge', () => {
  const live = leaf('3-w', ['w', 'x', 'a']);
  assert.ok(isDeletionOf(leaf('2-d', ['d', 'a'], ',"_deleted":true'), live));
  assert.ok(!isDeletionOf(leaf('3-d', ['d', 'y', 'a'], ',"_deleted":true'), live));
  assert.ok(!isDeletionOf(leaf('1-z', ['z'], ',"_deleted":true'), live));
});

test('a resolution writes the winner, and tombstones that keep the bodies of the others', () => {
  const winner = leaf('2-b', ['b', 'a'], ',"n":1');
  const other = leaf('2-c', ['c', 'a'], ',"n":9007199254740993,"_attachments":{"f":{"content_type":"a/b","revpos":2,"digest":"md5-x","length":3,"stub":true}}');
  assert.equal(
    write(resolution('d', [winner, other], parse('{"n":2}'))),
    '{"docs":[{"_id":"d","_rev":"2-b","n":2},'
      + '{"_id":"d","_rev":"2-c","_deleted":true,"n":9007199254740993,'
      + '"_attachments":{"f":{"stub":true,"content_type":"a/b","revpos":2,"digest":"md5-x","length":3}}}]}',
  );
  const deleted = write(resolution('d', [winner, other], null));
  assert.match(deleted, /^\{"docs":\[\{"_id":"d","_rev":"2-b","_deleted":true,"n":1\},/);
});

test('attachments of the winner stay stubs, those of other versions are loaded', async () => {
  const file = (name, digest) => `"${name}":{"content_type":"text/plain","revpos":2,"digest":"${digest}","length":3,"stub":true}`;
  const winner = leaf('2-b', ['b', 'a'], `,"_attachments":{${file('own', 'md5-1')},${file('same', 'md5-2')},${file('gone', 'md5-3')}}`);
  const other = leaf('2-c', ['c', 'a'], `,"_attachments":{${file('same', 'md5-2')},${file('theirs', 'md5-4')}}`);
  const loaded = [];
  const result = await mergedAttachments(
    [winner, other],
    new Map([['own', 0], ['same', 1], ['gone', null], ['theirs', 1], ['nowhere', 1]]),
    async (side, name) => {
      loaded.push([side, name]);
      return 'QUJD';
    },
  );
  assert.deepEqual(loaded, [[1, 'theirs']]);
  assert.deepEqual([...result.keys()], ['own', 'same', 'theirs']);
  assert.equal(result.get('same').get('stub'), true);
  assert.equal(write(result.get('theirs')), '{"content_type":"text/plain","data":"QUJD"}');
  assert.equal(bodyOf(winner).size, 0);
  assert.equal(attachmentsOf(winner).size, 3);
});
