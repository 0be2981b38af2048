//! Memory and threads of this process, as the operating system reports them.

/// Resident and virtual memory of this process in bytes; zeros if `/proc` is not available.
pub fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0)
    };
    (kilobytes("VmRSS:") << 10, kilobytes("VmSize:") << 10)
}

/// The number of threads; zero if `/proc` is not available.
pub fn threads() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let line = text.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
