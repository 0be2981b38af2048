// A file system of a given size on a loop device, which a test can fill. Requires root, loop devices and ext4.

import { execFile } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, statfsSync, appendFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export class SmallDisk {
  /** Makes and mounts one. If that is impossible, resolves to the reason; where CI is set, throws. */
  static async mount(megabytes) {
    const disk = new SmallDisk();
    disk.base = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'settee-disk-'));
    // Another user runs PostgreSQL.
    chmodSync(disk.base, 0o755);
    disk.folder = join(disk.base, 'disk');
    mkdirSync(disk.folder);
    const image = join(disk.base, 'image');
    try {
      await run('truncate', ['-s', `${megabytes}M`, image]);
      // Without blocks that only root may use.
      await run('mkfs.ext4', ['-q', '-F', '-m', '0', image]);
      await run('mount', ['-o', 'loop', image, disk.folder]);
    } catch (error) {
      rmSync(disk.base, { recursive: true, force: true });
      if (process.env.CI === 'true') throw error;
      return `a file system cannot be mounted: ${error.message}`;
    }
    process.on('exit', disk.remove);
    return disk;
  }

  /** Bytes that are free. */
  get free() {
    const { bavail, bsize } = statfsSync(this.folder);
    return bavail * bsize;
  }

  /** Fills it with a file, down to `left` bytes. */
  fill(left = 0) {
    const file = join(this.folder, 'filler');
    for (let step = 1 << 20; step >= 4096; step /= 4) {
      try {
        while (this.free >= left + step) appendFileSync(file, Buffer.alloc(step));
      } catch (error) {
        if (error.code !== 'ENOSPC') throw error;
      }
    }
  }

  /** Removes that file. */
  empty() {
    rmSync(join(this.folder, 'filler'));
  }

  /** Unmounts it. */
  remove = async () => {
    process.off('exit', this.remove);
    // Lazily: something may be open there.
    await run('umount', ['-l', this.folder]).catch(() => {});
    rmSync(this.base, { recursive: true, force: true });
  };
}
