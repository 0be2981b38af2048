// Reads documents from a file: JSON lines, a JSON array, `{"docs": […]}` or an answer of `_all_docs`; writes them in
// batches. Numbers and the order of members stay as they are in the file.

import * as api from '../api.js';
import { parse, write } from '../json.js';

const BATCH = 500;
const BATCH_CHARACTERS = 4_000_000;
/** A JSON text is read whole, so it may not be larger than this; JSON lines may have any size. */
const WHOLE = 200_000_000;

/** The documents of a file, one after the other; throws an error with the line where the file is wrong. */
export async function* documentsOf(file, signal) {
  const start = (await file.slice(0, 4096).text()).trimStart();
  if (start.startsWith('[') || !(await isLines(file, start))) {
    yield* documentsOfText(file);
    return;
  }
  // The parts of a line that has not ended: joined once, because a line can have any length.
  let rest = [];
  let line = 0;
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (signal?.aborted) return;
    const lines = (value ?? '').split('\n');
    const begun = done ? [] : [lines.pop()];
    if (lines.length > 0) {
      lines[0] = rest.join('') + lines[0];
      rest = [];
    }
    rest.push(...begun);
    for (const text of lines) {
      line += 1;
      if (text.trim() !== '') yield { line, doc: parsed(text, line) };
    }
    if (done) return;
  }
}

/** Whether the first line alone is a document. */
async function isLines(file, start) {
  const end = start.indexOf('\n');
  // A first line that is longer than what was read can only be told apart by reading it.
  if (end < 0 && file.size > 4096) return !/^\{\s*"(docs|rows|total_rows)"/.test(start);
  try {
    const first = parse(end < 0 ? start : start.slice(0, end));
    return first instanceof Map && !Array.isArray(first.get('docs')) && !Array.isArray(first.get('rows'));
  } catch {
    return false;
  }
}

function parsed(text, line) {
  let doc;
  try {
    doc = parse(text);
  } catch (error) {
    throw new SyntaxError(`Line ${line} is not JSON: ${error.message.replace(/ \(line 1, column (\d+)\)/, ' (column $1)')}`);
  }
  if (!(doc instanceof Map)) throw new SyntaxError(`Line ${line} is not an object.`);
  return doc;
}

async function* documentsOfText(file) {
  if (file.size > WHOLE) throw new SyntaxError('A file of this size must be JSON lines: one document a line.');
  const value = parse(await file.text());
  const list = Array.isArray(value) ? value : value instanceof Map ? value.get('docs') ?? value.get('rows') ?? [value] : null;
  if (!Array.isArray(list)) throw new SyntaxError('The file has no documents: it should be JSON lines, an array, or {"docs": […]}.');
  for (const [at, each] of list.entries()) {
    const doc = each instanceof Map && each.get('doc') instanceof Map && each.has('key') ? each.get('doc') : each;
    if (!(doc instanceof Map)) throw new SyntaxError(`Item ${at + 1} is not an object.`);
    yield { line: at + 1, doc };
  }
}

/**
 * Imports a file. `existing` says what happens to a document that is there: `keep` leaves it, `replace` writes over it.
 * `tell({read, written, skipped, failed})` is called after each batch. Resolves to that, with the first `errors`.
 */
export async function importFile(db, file, { existing, signal, tell }) {
  const done = { read: 0, written: 0, skipped: 0, failed: 0, errors: [], bytes: 0 };
  let batch = [];
  let length = 0;
  const flush = async () => {
    if (batch.length > 0) await writeBatch(db, batch, existing, done, signal);
    batch = [];
    length = 0;
    tell(done);
  };
  for await (const { line, doc } of documentsOf(file, signal)) {
    if (signal?.aborted) break;
    done.read += 1;
    const text = write(clean(doc));
    batch.push({ line, id: doc.get('_id'), doc, text });
    length += text.length;
    done.bytes += text.length;
    if (batch.length >= BATCH || length >= BATCH_CHARACTERS) await flush();
  }
  await flush();
  return done;
}

/** Without what belongs to another database: revisions, and stubs of attachments. */
function clean(doc) {
  const copy = new Map(doc);
  copy.delete('_rev');
  const files = copy.get('_attachments');
  if (files instanceof Map && [...files.values()].some((each) => each instanceof Map && each.get('stub') === true)) copy.delete('_attachments');
  for (const name of ['_revisions', '_conflicts', '_revs_info', '_local_seq']) copy.delete(name);
  return copy;
}

async function writeBatch(db, batch, existing, done, signal) {
  const path = api.part(db);
  if (existing === 'replace') await addRevisions(path, batch, signal);
  const { text } = await api.send('POST', `${path}/_bulk_docs`, { text: `{"docs":[${batch.map((each) => each.text).join(',')}]}`, signal });
  for (const [at, row] of JSON.parse(text).entries()) {
    if (!row.error) done.written += 1;
    else if (row.error === 'conflict' && existing === 'keep') done.skipped += 1;
    else {
      done.failed += 1;
      if (done.errors.length < 20) done.errors.push({ line: batch[at].line, id: row.id ?? batch[at].id, reason: api.inWords(row.reason) });
    }
  }
}

/** Gives each document the revision that is there now, so that it is written over. */
async function addRevisions(path, batch, signal) {
  const keys = batch.map((each) => each.id).filter((id) => typeof id === 'string');
  if (keys.length === 0) return;
  const { rows } = await api.post(`${path}/_all_docs`, { keys }, { signal });
  const revs = new Map(rows.filter((row) => row.value && !row.value.deleted).map((row) => [row.id, row.value.rev]));
  for (const each of batch) {
    const rev = revs.get(each.id);
    if (rev) each.text = write(new Map([...clean(each.doc), ['_rev', rev]]));
  }
}

