// A reporter for `node --test`: where CI is set, a skipped test that `tests/allowed-skips.txt` does not name
// makes the run fail, and is named at its end.

import { readFileSync } from 'node:fs';
import { basename } from 'node:path';

const list = readFileSync(new URL('../../tests/allowed-skips.txt', import.meta.url), 'utf8');
const columns = list.split('\n').filter((line) => line && !line.startsWith('#')).map((line) => line.split('|').map((column) => column.trim()));
const allowed = new Set(columns.filter(([kind]) => kind === 'node').map(([, title]) => title));
const inCi = !['', '0', 'false'].includes(process.env.CI ?? '');

export default async function* skips(events) {
  const refused = [];
  for await (const { type, data } of events) {
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    const skipped = data.skip !== undefined && data.skip !== false;
    if (skipped && !allowed.has(data.name)) refused.push(`  ${basename(data.file ?? '')}: ${data.name}: ${data.skip}\n`);
  }
  if (!inCi || refused.length === 0) return;
  process.exitCode = 1;
  yield `CI does not allow these tests to be skipped (tests/allowed-skips.txt):\n${refused.join('')}`;
}
