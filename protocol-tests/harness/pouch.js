// PouchDBs whose server or network fails.

/** Catches a failing `info()` of a database of a server: PouchDB 8 and 9 ask for their list of tasks, and do not handle it. */
export function shaky(db) {
  const info = db.info.bind(db);
  db.info = () => info().catch(() => ({ db_name: db.name, update_seq: '0' }));
  return db;
}

/**
 * Replicates live until it is stopped, and begins again after each error; `begin` starts a replication or a sync.
 *
 * Not with `retry: true`: if a request for changes fails while a batch is being written, PouchDB (7 to 9) drops the batches
 * that wait, goes on after them, and its checkpoint says that they are there. With any server.
 */
export class Live {
  constructor(begin, pause = 100) {
    this.going = true;
    this.ended = this.#run(begin, pause);
  }

  async #run(begin, pause) {
    while (this.going) {
      this.current = begin();
      await new Promise((resolve) => this.current.on('error', resolve).on('complete', resolve));
      this.current.cancel();
      if (this.going) await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** Resolves when nothing is replicated any more. */
  stop() {
    this.going = false;
    this.current?.cancel();
    return this.ended;
  }
}
