//! Revision ids and revision trees: pure, no I/O, no async, no clock.
