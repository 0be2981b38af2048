// The head that all screens of one database share.

import { heading } from './elements/heading.js';
import { link } from './router.js';

/** The heading of a screen of database `db`; `current` is the name of the tab. */
export const databaseHeading = (db, current, options = {}) => heading({
  ...options,
  title: options.title ?? db,
  crumbs: [['Databases', '#/databases'], ...(options.title ? [[db, link('db', db)]] : []), ...(options.crumbs ?? [])],
  tabs: options.tabs === false ? undefined : [
    { label: 'Documents', href: link('db', db), current: current === 'documents' },
    { label: 'Query', href: link('db', db, 'query'), current: current === 'query' },
    { label: 'Views and design', href: link('db', db, 'design'), current: current === 'design' },
    { label: 'Conflicts', href: link('conflicts', db) },
    { label: 'Import', href: link('db', db, 'import'), current: current === 'import' },
    { label: 'Settings', href: link('db', db, 'settings'), current: current === 'settings' },
  ],
});
