//! How long an order may take, and the pauses between orders.

use std::time::Duration;

/// Time limit from the first request of an order to its certificate. A hundred names take about four minutes.
pub(super) const ORDER: Duration = Duration::from_secs(15 * 60);
/// Pause after the first failure; each further failure doubles it, up to [`LAST_PAUSE`]. Let's Encrypt allows
/// five failures per name and hour.
const FIRST_PAUSE: Duration = Duration::from_secs(120);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(12 * 3600);

/// The pause after `orders` orders without a certificate.
pub(super) fn pause_after(orders: u32) -> Duration {
    match orders.checked_sub(1) {
        None => Duration::ZERO,
        Some(doubled) => FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX)).min(LAST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_after_each_failure() {
        let minutes: Vec<u64> = (0..12).map(|orders| pause_after(orders).as_secs() / 60).collect();
        assert_eq!(minutes, [0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 720, 720]);
        assert_eq!(pause_after(u32::MAX), LAST_PAUSE);
    }
}
