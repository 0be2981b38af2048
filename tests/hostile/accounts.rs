//! Attacks of users on accounts: their own, others', and those that an admin removed.
