//! What the server's settings mean for acknowledged writes: logged when settee starts.

use super::connections::Connections;
use crate::store::Result;

/// What the log says about the server's settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Settings that can lose an acknowledged write.
    pub warnings: Vec<String>,
    /// The server's version and durability settings, in one line.
    pub about: String,
}

struct Settings {
    version: String,
    fsync: bool,
    full_page_writes: bool,
    synchronous_commit: String,
    standbys: String,
}

/// Asks the server for its settings.
pub(super) async fn standing(connections: &Connections) -> Result<Standing> {
    let sql = "select current_setting('server_version'), current_setting('fsync') = 'on', \
               current_setting('full_page_writes') = 'on', current_setting('synchronous_commit'), \
               current_setting('synchronous_standby_names')";
    let row = connections.row(sql, Vec::new()).await?;
    Ok(told(&Settings {
        version: row.get(0),
        fsync: row.get(1),
        full_page_writes: row.get(2),
        synchronous_commit: row.get(3),
        standbys: row.get(4),
    }))
}

fn told(settings: &Settings) -> Standing {
    let mut warnings = Vec::new();
    if !settings.fsync {
        warnings.push("PostgreSQL runs with fsync = off: a power cut destroys its data".to_owned());
    }
    if !settings.full_page_writes {
        warnings.push("PostgreSQL runs with full_page_writes = off: a power cut can damage its data".to_owned());
    }
    let commit = settings.synchronous_commit.as_str();
    let is_alone = settings.standbys.is_empty();
    match commit {
        "off" => warnings.push(
            "PostgreSQL runs with synchronous_commit = off: writes that were acknowledged are lost in a crash"
                .to_owned(),
        ),
        "local" if !is_alone => warnings.push(
            "PostgreSQL runs with synchronous_commit = local: writes that were acknowledged are lost in a failover"
                .to_owned(),
        ),
        _ => {}
    }
    let standbys = match is_alone {
        true => "no synchronous standby: a failover can lose the last acknowledged writes".to_owned(),
        false => format!("synchronous standbys: {}", settings.standbys),
    };
    Standing { warnings, about: format!("PostgreSQL {}, synchronous_commit = {commit}, {standbys}", settings.version) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_can_lose_a_write_are_told() {
        let warned = |fsync, full_page_writes, commit: &str, standbys: &str| {
            let (commit, standbys) = (commit.to_owned(), standbys.to_owned());
            let version = "15.1".to_owned();
            told(&Settings { version, fsync, full_page_writes, synchronous_commit: commit, standbys }).warnings.len()
        };
        assert_eq!(warned(true, true, "on", ""), 0);
        assert_eq!(warned(true, true, "local", ""), 0);
        assert_eq!(warned(true, true, "remote_apply", "ANY 1 (a, b)"), 0);
        assert_eq!(warned(true, true, "local", "ANY 1 (a, b)"), 1);
        assert_eq!(warned(false, false, "off", ""), 3);
    }
}
