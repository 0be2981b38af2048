//! `_session` and the devices of a user.

pub(crate) mod devices;
pub mod session;
