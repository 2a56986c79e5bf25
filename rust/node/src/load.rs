//! How busy the machine is. It is read from the system once a second, however many ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use meshos_core::finite::Finite;
use meshos_core::heartbeat::Load;

static NEWEST: ArcSwapOption<(Instant, Load)> = ArcSwapOption::const_empty();

/// For how long what was read is good.
const FRESH: Duration = Duration::from_secs(1);

/// How busy the machine is, about now. Where the system does not say it, nothing is known.
#[must_use]
pub fn now() -> Load {
    let now = Instant::now();
    if let Some(newest) = NEWEST.load().as_deref()
        && now.saturating_duration_since(newest.0) < FRESH
    {
        return newest.1;
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let load = parse(&read("/proc/loadavg"), &read("/proc/meminfo"));
    NEWEST.store(Some(Arc::new((now, load))));
    load
}

fn parse(load: &str, memory: &str) -> Load {
    let bytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
        let number: u64 = line.strip_suffix("kB")?.trim().parse().ok()?;
        number.checked_mul(1024)
    };
    let total = bytes("MemTotal:");
    let available = bytes("MemAvailable:");
    Load {
        cpu_load_1m: load
            .split(' ')
            .next()
            .and_then(|load| load.parse().ok())
            .and_then(Finite::new),
        mem_used_bytes: total
            .zip(available)
            .map(|(total, available)| total.saturating_sub(available)),
        mem_total_bytes: total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_read() {
        let load = parse(
            "0.52 0.58 0.59 1/467 12345\n",
            "MemTotal:  2048 kB\nMemFree: 5 kB\nMemAvailable:  1024 kB\n",
        );
        assert_eq!(load.cpu_load_1m.map(Finite::get), Some(0.52));
        assert_eq!(
            (load.mem_used_bytes, load.mem_total_bytes),
            (Some(1 << 20), Some(2 << 20))
        );
    }

    #[test]
    fn what_nobody_says_is_not_known() {
        assert_eq!(parse("", ""), Load::default());
        assert_eq!(parse("nan", "MemTotal: many kB"), Load::default());
    }
}
