// The disk that a vault of LiveSync takes: 1,000 notes of 15 MB in all, in chunks as the plugin writes them with encryption,
// edited 10,000 times, so that each edit is a new chunk of 2 KB; then the chunks that no note needs any more are deleted. The
// server runs all the time. For each engine:
//
//   SETTEE_BIN=target/release/settee node benches/livesync-disk.mjs > table.md
//
// NOTES, EDITS: how many of them.

import { randomBytes } from 'node:crypto';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { pause, Server } from './server.mjs';

const NOTES = Number(process.env.NOTES ?? 1000);
const EDITS = Number(process.env.EDITS ?? 10_000);
/** A note of 15 KB has so many chunks of 2 KB. */
const CHUNKS = 7.5;
const BATCH = 50;

class Vault extends Server {
  notes = [];
  unused = [];

  async write(docs) {
    const rows = await this.ask('POST', '/vault/_bulk_docs', { docs });
    const failed = rows.find((row) => row.error);
    if (failed) throw new Error(JSON.stringify(failed));
    return rows;
  }

  chunk() {
    return { _id: `h:+${randomBytes(9).toString('hex')}`, data: `%=${randomBytes(2048).toString('base64')}`, type: 'leaf' };
  }

  note(note) {
    const { id: _id, rev: _rev, children } = note;
    const now = Date.now();
    return { _id, _rev, path: `/\\:${'x'.repeat(60)}`, children, ctime: now, mtime: now, size: 15_000, type: 'plain', eden: {} };
  }

  /** Writes documents, and remembers the revisions of the notes. */
  async save(notes, chunks) {
    const revisions = await this.write([...chunks, ...notes.map((note) => this.note(note))]);
    notes.forEach((note, at) => (note.rev = revisions[chunks.length + at].rev));
    chunks.forEach((chunk, at) => this.revisions.set(chunk._id, revisions[at].rev));
  }

  async make() {
    this.revisions = new Map();
    await this.ask('PUT', '/vault');
    for (let first = 0; first < NOTES; first += BATCH) {
      const notes = [];
      const chunks = [];
      for (let n = first; n < Math.min(first + BATCH, NOTES); n++) {
        const own = Array.from({ length: Math.floor(CHUNKS * (n + 1)) - Math.floor(CHUNKS * n) }, () => this.chunk());
        notes.push({ id: `f:${randomBytes(32).toString('hex')}`, children: own.map((chunk) => chunk._id) });
        chunks.push(...own);
      }
      await this.save(notes, chunks);
      this.notes.push(...notes);
    }
  }

  async edit() {
    for (let n = 0; n < EDITS; n++) {
      const note = this.notes[(n * 7919) % this.notes.length];
      const chunk = this.chunk();
      const at = n % note.children.length;
      this.unused.push(note.children[at]);
      note.children[at] = chunk._id;
      await this.save([note], [chunk]);
    }
  }

  async collectGarbage() {
    for (let first = 0; first < this.unused.length; first += 100) {
      const docs = this.unused.slice(first, first + 100);
      await this.write(docs.map((_id) => ({ _id, _rev: this.revisions.get(_id), _deleted: true })));
    }
  }

  async compact() {
    await this.ask('POST', '/vault/_compact', {});
    while ((await this.ask('GET', '/vault')).compact_running) await pause(100);
    // The server may rewrite its store then.
    let before;
    do {
      before = folderBytes(this.data);
      await pause(2000);
    } while ((await this.ask('GET', '/_active_tasks')).length > 0 || folderBytes(this.data) !== before);
  }

  async row(what) {
    const { sizes } = await this.ask('GET', '/vault');
    const row = { what, live: sizes.file, disk: folderBytes(this.data) };
    console.error(this.engine, row);
    return row;
  }
}

/** Bytes on disk. */
function folderBytes(folder) {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .reduce((bytes, entry) => bytes + statSync(join(entry.parentPath, entry.name)).blocks * 512, 0);
}

async function measure(engine) {
  const vault = new Vault(engine);
  const rows = [];
  try {
    await vault.start();
    await vault.make();
    await vault.edit();
    rows.push(await vault.row('after the edits'));
    await vault.compact();
    rows.push(await vault.row('after a compaction'));
    await vault.collectGarbage();
    await vault.compact();
    rows.push(await vault.row('after garbage collection and a compaction'));
  } finally {
    vault.child?.kill('SIGKILL');
    vault.remove();
  }
  return rows;
}

const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
const sled = await measure('sled');
const redb = await measure('redb');
console.log('| | live data | folder with sled | folder with redb |\n|---|---:|---:|---:|');
sled.forEach(({ what, live, disk }, at) => {
  console.log(`| ${what} | ${megabytes(live)} | ${megabytes(disk)} | ${megabytes(redb[at].disk)} |`);
});
