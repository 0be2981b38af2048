//! Clients that read large answers slowly.
