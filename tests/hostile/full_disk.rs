//! What makes room works on a full disk.
