// docs/monitoring: the dashboard and the alert rules name only metrics that the server serves.

import { readFileSync } from 'node:fs';
import { suite, it, assert } from '../harness/rows.js';

const read = (name) => readFileSync(new URL(`../../docs/monitoring/${name}`, import.meta.url), 'utf8');

suite('monitoring', (api) => {
  it('serves every metric of the dashboard and of the alert rules', async () => {
    await api.call('GET /');
    const { text } = await api.call('GET /_node/_local/_prometheus');
    const served = new Set([...text.matchAll(/^([a-z_]+)[ {]/gm)].map(([, name]) => name));
    const dashboard = JSON.parse(read('grafana.json'));
    const asked = dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)).concat(read('alerts.yml'));
    const names = new Set(asked.flatMap((text) => text.match(/\b(couchdb|settee)_[a-z_]+/g) ?? []));
    assert.ok(names.size > 20);
    assert.deepEqual([...names].filter((name) => !served.has(name)), []);
  });
});
