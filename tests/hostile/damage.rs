//! Data folders with turned bits, cut, zeroed and exchanged pages, and missing parts: each start is right or refused.
