//! What an error of the database means for the store.

use tokio_postgres::error::{Severity, SqlState};

use crate::store::StoreError;

/// The outcome of a statement that failed, which is also the outcome of its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// Rolled back because of another transaction: the same statement may succeed at once.
    Again,
    /// Rolled back.
    Failed(StoreError),
    /// The connection ended before the answer: the statement may have taken effect.
    Unknown(String),
}

impl Fate {
    pub fn of(error: &tokio_postgres::Error) -> Fate {
        let Some(told) = error.as_db_error() else { return Fate::Unknown(text(error)) };
        let code = told.code();
        // The server ends the connection. During the commit it may do so after the transaction has taken effect.
        if matches!(told.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
            return Fate::Unknown(text(error));
        }
        if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED {
            return Fate::Again;
        }
        let kind = code.code().get(..2).unwrap_or_default();
        let out_of = match kind {
            // Resources: disk, memory, connections.
            "53" => true,
            // Read-only: a standby, or a primary that is about to become one.
            "25" => *code == SqlState::READ_ONLY_SQL_TRANSACTION,
            // Cancelled, or shutting down.
            "57" | "58" => true,
            "55" => *code == SqlState::LOCK_NOT_AVAILABLE,
            _ => false,
        };
        Fate::Failed(match kind {
            _ if out_of => StoreError::Down(text(error)),
            "XX" if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
                StoreError::Damaged(text(error))
            }
            _ => StoreError::Unavailable(text(error)),
        })
    }
}

/// The error of a read, which has no effect that could be unknown.
pub(super) fn of_read(error: &tokio_postgres::Error) -> StoreError {
    match Fate::of(error) {
        Fate::Failed(error) => error,
        Fate::Again => StoreError::Down(text(error)),
        Fate::Unknown(cause) => StoreError::Down(cause),
    }
}

/// The error when the pool provides no connection.
pub(super) fn of_pool(error: &deadpool_postgres::PoolError) -> StoreError {
    use deadpool_postgres::PoolError;
    StoreError::Down(match error {
        PoolError::Timeout(_) => "no connection to the database became free in time".to_owned(),
        PoolError::Backend(error) | PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(error)) => {
            text(error)
        }
        error => error.to_string(),
    })
}

/// Whether a read may be sent again on another connection, because the error is one of the connection.
pub(super) fn is_connection(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        None => true,
        Some(told) => {
            *told.code() == SqlState::READ_ONLY_SQL_TRANSACTION
                || told.code().code().starts_with("57P")
                || told.code().code().starts_with("08")
        }
    }
}

/// Whether a new connection was ended before it could be used. The next connection may succeed.
pub(super) fn was_cut(error: &deadpool_postgres::PoolError) -> bool {
    use deadpool_postgres::{HookError, PoolError};
    let (PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error))) = error else {
        return false;
    };
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let broken = |cause: &std::io::Error| {
        matches!(cause.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)
    };
    error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN) || cause.is_some_and(broken)
}

/// The error and its causes, which the text of tokio-postgres leaves out.
pub(super) fn text(error: &tokio_postgres::Error) -> String {
    let mut said = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !said.contains(&part) {
            said = if said.is_empty() { part } else { format!("{said}: {part}") };
        }
        next = error.source();
    }
    if let Some(told) = error.as_db_error() {
        said = format!("{said} ({})", told.code().code());
    }
    format!("PostgreSQL: {said}")
}
