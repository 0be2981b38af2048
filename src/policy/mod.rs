//! Rules that reads and writes must satisfy beyond those of the database itself.

pub mod password_upgrade;
pub mod per_user_database;
pub mod users_database;
pub mod visibility;
