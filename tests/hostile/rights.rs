//! Requests and feeds that outlive the right they began with.
