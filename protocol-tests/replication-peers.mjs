// Acceptance of replication by the server, run by hand: between settee and Apache CouchDB in all directions,
// with kills in the middle, and measured beside CouchDB's own replicator. docs/testing.md describes it.
//
//   SETTEE_BIN=... node replication-peers.mjs copy  [--couchdb-url URL | --couchdb-program FILE] [--documents 20000]
//                                                   [--large 100] [--seed 1] [--only TEXT]
//   SETTEE_BIN=... node replication-peers.mjs kills [--couchdb-program FILE] [--rounds 50] [--batch 2000] [--only TEXT]
//   SETTEE_BIN=... node replication-peers.mjs speed [--couchdb-program FILE] [--documents 20000] [--rounds 3]

import { parseArgs } from 'node:util';
import { CouchDB, Settee } from './replication-peers/peers.mjs';
import { copies } from './replication-peers/copies.mjs';
import { kills } from './replication-peers/kills.mjs';
import { speed } from './replication-peers/speed.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'couchdb-url': { type: 'string' },
    'couchdb-program': { type: 'string' },
    documents: { type: 'string', default: '20000' },
    large: { type: 'string', default: '100' },
    rounds: { type: 'string' },
    batch: { type: 'string', default: '2000' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    set: { type: 'string', multiple: true, default: ['replicator/allow_private=true'] },
    store: { type: 'string', default: 'sled' },
  },
});

const mode = { copy: copies, kills, speed }[positionals[0]];
if (!mode) {
  console.error('the first argument must be copy, kills or speed');
  process.exit(2);
}

const options = {
  documents: Number(values.documents),
  large: Number(values.large) * (1 << 20),
  rounds: values.rounds === undefined ? undefined : Number(values.rounds),
  batch: Number(values.batch),
  seed: Number(values.seed),
  only: values.only,
};
console.log(`${positionals[0]}: ${JSON.stringify(options)}`);

const settings = ['--store', values.store, ...values.set.flatMap((setting) => ['--set', setting])];
const settees = ['settee A', 'settee B', 'settee C'].map((name) => new Settee(name, settings));
const couchdb =
  values['couchdb-url'] || values['couchdb-program']
    ? new CouchDB('CouchDB', { url: values['couchdb-url'], program: values['couchdb-program'] })
    : null;

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

let failed = 0;
const report = (name, problems) => {
  console.log(`${new Date().toISOString().slice(11, 19)} ${problems.length ? 'FAILED' : 'passed'}  ${name}`);
  for (const problem of problems) console.log(`        ${problem}`);
  failed += problems.length ? 1 : 0;
};
try {
  for (const peer of [...settees, couchdb]) await peer?.start();
  await mode({ settees, couchdb }, options, report);
} finally {
  for (const peer of [...settees, couchdb]) await peer?.stop().catch((error) => report(`${peer.name} stops cleanly`, [error.message]));
}
console.log(failed ? `${failed} failed` : 'all passed');
process.exit(failed ? 1 : 0);
