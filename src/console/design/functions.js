// The functions of a design document: finding them, changing them, and new ones to begin with.

/** Reduce functions that the server has built in. */
export const BUILT_IN = ['_count', '_sum', '_stats', '_approx_count_distinct'];

export const KINDS = {
  view: { label: 'Views', one: 'view', member: 'views', hint: 'An index: the map function emits rows for each document.' },
  filter: { label: 'Filters', one: 'filter', member: 'filters', hint: 'Chooses which changes a replication or a feed sends.' },
  validate: { label: 'Validation', one: 'validation', member: 'validate_doc_update', hint: 'Refuses writes, also those of replications. There is one for each design document.' },
  update: { label: 'Updates', one: 'update', member: 'updates', hint: 'Makes a document from a request.' },
};

const BEGIN = {
  view: 'function (doc) {\n  if (doc.type) {\n    emit(doc.type, null);\n  }\n}',
  filter: 'function (doc, req) {\n  return doc.type === \'note\';\n}',
  validate: 'function (newDoc, oldDoc, userCtx, secObj) {\n  if (newDoc._deleted) return;\n  if (!newDoc.type) {\n    throw({ forbidden: \'A document needs a type.\' });\n  }\n}',
  update: 'function (doc, req) {\n  return [{ _id: req.uuid, at: new Date().toISOString() }, \'made\'];\n}',
};

/** An empty design document. */
export const emptyDesign = (id) => new Map([['_id', id], ['language', 'javascript'], ['views', new Map()]]);

/** All functions: `{kind, name}`, in the order of the document. */
export function listFunctions(doc) {
  const names = (member) => (doc.get(member) instanceof Map ? [...doc.get(member).keys()] : []);
  return [
    ...names('views').filter((name) => name !== 'lib' && doc.get('views').get(name) instanceof Map).map((name) => ({ kind: 'view', name })),
    ...names('filters').map((name) => ({ kind: 'filter', name })),
    ...(doc.has('validate_doc_update') ? [{ kind: 'validate', name: 'validate_doc_update' }] : []),
    ...names('updates').map((name) => ({ kind: 'update', name })),
  ];
}

export const same = (a, b) => a && b && a.kind === b.kind && a.name === b.name;

/** The parts of a function that can be edited: `{part, source}`. A view has a map and may have a reduce function. */
export function partsOf(doc, { kind, name }) {
  if (kind === 'validate') return [{ part: 'validate', source: text(doc.get('validate_doc_update')) }];
  const own = doc.get(KINDS[kind].member).get(name);
  if (kind !== 'view') return [{ part: kind, source: text(own) }];
  return [{ part: 'map', source: text(own.get('map')) }, { part: 'reduce', source: text(own.get('reduce')) }];
}

const text = (value) => (typeof value === 'string' ? value : '');

/** Sets the source of a part; an empty reduce function is removed. */
export function setPart(doc, { kind, name }, part, source) {
  if (kind === 'validate') doc.set('validate_doc_update', source);
  else if (kind !== 'view') doc.get(KINDS[kind].member).set(name, source);
  else if (part === 'reduce' && source.trim() === '') doc.get('views').get(name).delete('reduce');
  else doc.get('views').get(name).set(part, source);
}

/** Adds a function with a source to begin with; returns what names it. */
export function addFunction(doc, kind, name) {
  const { member } = KINDS[kind];
  if (kind === 'validate') {
    doc.set(member, BEGIN.validate);
    return { kind, name: member };
  }
  if (!(doc.get(member) instanceof Map)) doc.set(member, new Map());
  doc.get(member).set(name, kind === 'view' ? new Map([['map', BEGIN.view]]) : BEGIN[kind]);
  return { kind, name };
}

export function removeFunction(doc, { kind, name }) {
  if (kind === 'validate') doc.delete('validate_doc_update');
  else doc.get(KINDS[kind].member).delete(name);
}

/** Whether there is a function of this name already. */
export const isTaken = (doc, kind, name) => listFunctions(doc).some((each) => same(each, { kind, name }));

/** Which part the server complains of in "Compilation of the map function in the 'a' view failed: …", if it says so. */
export function blamed(reason) {
  const view = /Compilation of the (map|reduce) function in the '(.*?)' view failed: ([^]*)/.exec(reason);
  if (view) return { at: { kind: 'view', name: view[2] }, part: view[1], message: view[3].replace(/ \(function[^]*$/, '') };
  return null;
}
