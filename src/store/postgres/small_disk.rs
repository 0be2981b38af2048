//! A small file system for the tables of a test's PostgreSQL. Requires root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::test_server::TestServer;

/// A file system in memory that is mounted in the server's folder. Dropping it unmounts it.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a file system of `megabytes`. If that is impossible, prints a message and returns `None`; in CI, panics.
    pub fn mount(server: &TestServer, megabytes: u32) -> Option<SmallDisk> {
        let folder = server.folder.path().join("small");
        std::fs::create_dir(&folder).unwrap();
        let disk = SmallDisk(folder);
        let mounted = disk.run(&format!("size={megabytes}m"));
        if !mounted {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI must be able to mount (root)");
            println!("skipped: a file system cannot be mounted");
            return None;
        }
        let (user, group) = server.user;
        std::os::unix::fs::chown(&disk.0, Some(user), Some(group)).unwrap();
        Some(disk)
    }

    fn run(&self, options: &str) -> bool {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "settee-test"]).arg(&self.0).output();
        mount.is_ok_and(|mount| mount.status.success())
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Makes it larger.
    pub fn grow(&self, megabytes: u32) {
        assert!(self.run(&format!("remount,size={megabytes}m")));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server has files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
