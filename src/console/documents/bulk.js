// What is done with several chosen documents at once.

import * as api from '../api.js';
import { h } from '../dom.js';
import { ask } from '../elements/dialog.js';
import { toast } from '../elements/toast.js';
import { plural } from '../format.js';

/** Asks, and deletes documents: `docs` are `{id, rev}`. Resolves to whether any were deleted. */
export async function deleteDocs(db, docs) {
  const shown = docs.slice(0, 8).map(({ id }) => h('li', { class: 'mono' }, id));
  const rest = docs.length - shown.length;
  let refused = [];
  const yes = await ask({
    title: `Delete ${plural(docs.length, 'document')}?`,
    danger: true,
    confirm: 'Delete',
    body: [h('ul', { class: 'bulk-list' }, shown, rest > 0 ? h('li', { class: 'quiet' }, `and ${rest} more`) : null),
      'Each device that syncs deletes them too. Until the next compaction their last versions can be restored here.'],
    action: async () => {
      const answer = await api.post(`${api.part(db)}/_bulk_docs`, { docs: docs.map(({ id, rev }) => ({ _id: id, _rev: rev, _deleted: true })) });
      refused = answer.filter((row) => row.error);
    },
  });
  if (!yes) return false;
  if (refused.length > 0) toast(`${plural(refused.length, 'document')} not deleted. ${refused[0].id}: ${api.inWords(refused[0].reason)}`, { kind: 'error' });
  if (refused.length < docs.length) toast(`${plural(docs.length - refused.length, 'document')} deleted.`);
  return true;
}
