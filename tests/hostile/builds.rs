//! View builds and documents that ask for more memory or time than they are worth.
