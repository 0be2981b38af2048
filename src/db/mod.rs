//! Databases: names, documents, the write path, the changes feed.
