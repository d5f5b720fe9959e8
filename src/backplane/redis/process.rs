//! Whether another process on the same machine has ended. Never says so of one that it can't see.

use std::{fs, sync::LazyLock};

/// The boot, and the namespace of this process's number.
static PLACE: LazyLock<Option<String>> = LazyLock::new(|| {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.display()))
});

static OWN: LazyLock<String> = LazyLock::new(|| {
    let pid = std::process::id();
    match (&*PLACE, started(pid)) {
        (Some(place), Some(started)) => format!("{place} {pid} {started}"),
        _ => String::new(),
    }
});

/// This process, as others on the same machine can look it up: the boot, the namespace of its number, the number, and when
/// it began. Empty where the system does not say.
pub(super) fn own() -> String {
    OWN.clone()
}

/// Whether it has surely ended.
pub(super) fn has_ended(process: &str) -> bool {
    let mut words = process.rsplitn(3, ' ');
    let (Some(began), Some(pid), Some(elsewhere)) = (words.next(), words.next(), words.next()) else { return false };
    let Ok(pid) = pid.parse() else { return false };
    // A number means something in its own namespace only.
    let is_here = PLACE.as_deref() == Some(elsewhere);
    is_here && process != *OWN && started(pid).is_none_or(|started| started != began)
}

/// When a process began, in ticks since the boot.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let state = fields.split(' ').next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.split(' ').nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_is_told_from_one_that_lives_or_is_elsewhere() {
        let own = own();
        assert!(!own.is_empty() && !has_ended(&own));
        let (rest, _) = own.rsplit_once(' ').unwrap();
        assert!(has_ended(&format!("{rest} 1")), "its number was given again");
        assert!(!has_ended(&format!("other{own}")) && !has_ended("") && !has_ended("x"));
    }
}
