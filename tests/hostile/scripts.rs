//! Functions of design documents that do not end, hold memory, or starve others.
