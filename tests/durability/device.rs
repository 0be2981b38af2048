//! A file system of a given size on a loop device, for tests of power cuts and full disks. Requires root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::allowed_skips;

/// The mounted file systems; unmounted on drop.
pub struct Device {
    folder: PathBuf,
    mounted: Vec<PathBuf>,
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Device {
    /// Creates and mounts an ext4 file system of `megabytes`. Skips the test and returns `None` where this is
    /// impossible.
    pub fn mount(megabytes: u32) -> Option<Device> {
        let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let unique = format!("settee-{}-{:?}", std::process::id(), std::thread::current().id());
        let folder = base.join(unique.replace(['(', ')'], ""));
        let mut device = Device { folder, mounted: Vec::new() };
        let image = device.image();
        let made = std::fs::create_dir_all(&device.folder)
            .map_err(|error| format!("{}: {error}", device.folder.display()))
            .and_then(|()| run("truncate", &["-s", &format!("{megabytes}M"), &image]))
            .and_then(|()| run("mkfs.ext4", &["-q", "-F", &image]))
            .and_then(|()| device.mount_image(&image.clone(), "live"));
        match made {
            Ok(_) => Some(device),
            Err(error) => {
                allowed_skips::skip(&format!("it needs root, loop devices and ext4: {error}"));
                None
            }
        }
    }

    fn image(&self) -> String {
        self.folder.join("image").display().to_string()
    }

    fn mount_image(&mut self, image: &str, name: &str) -> Result<PathBuf, String> {
        let at = self.folder.join(name);
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        run("mount", &["-o", "loop", image, &at.display().to_string()])?;
        self.mounted.push(at.clone());
        Ok(at)
    }

    /// The mount point of the file system.
    pub fn live(&self) -> PathBuf {
        self.folder.join("live")
    }

    /// Mounts a copy of the device's current contents. The copy lacks the pages that the kernel has not
    /// written yet, as after a power cut.
    pub fn after_power_cut(&mut self) -> PathBuf {
        let copy = self.folder.join("copy").display().to_string();
        run("cp", &["--sparse=always", &self.image(), &copy]).expect("the image can be copied");
        self.mount_image(&copy, "cut").expect("the copy can be mounted")
    }

    /// Unmounts the copy that [`Device::after_power_cut`] mounted.
    pub fn unmount_cut(&mut self) {
        let cut = self.folder.join("cut");
        run("umount", &[&cut.display().to_string()]).expect("the copy can be unmounted");
        self.mounted.retain(|at| *at != cut);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for at in self.mounted.drain(..).rev() {
            let _ = run("umount", &["-l", &at.display().to_string()]);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
