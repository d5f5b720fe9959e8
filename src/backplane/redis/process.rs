//! Checks whether another process on the same machine has ended. Never reports that for a process that it cannot see.

use std::{fs, sync::LazyLock};

/// The boot id, and the PID namespace of this process.
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

/// Identifies this process for others on the same machine: boot id, PID namespace, PID, and start time. Empty if the
/// system does not provide them.
pub(super) fn own() -> String {
    OWN.clone()
}

/// Whether it has certainly ended.
pub(super) fn has_ended(process: &str) -> bool {
    let mut words = process.rsplitn(3, ' ');
    let (Some(began), Some(pid), Some(elsewhere)) = (words.next(), words.next(), words.next()) else { return false };
    let Ok(pid) = pid.parse() else { return false };
    // A PID is meaningful only in its namespace.
    let is_here = PLACE.as_deref() == Some(elsewhere);
    is_here && process != *OWN && started(pid).is_none_or(|started| started != began)
}

/// Start time of a process, in ticks since boot.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything.
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
    fn an_ended_process_is_distinguished_from_a_running_or_remote_one() {
        let own = own();
        assert!(!own.is_empty() && !has_ended(&own));
        let (rest, _) = own.rsplit_once(' ').unwrap();
        assert!(has_ended(&format!("{rest} 1")), "its PID was reused");
        assert!(!has_ended(&format!("other{own}")) && !has_ended("") && !has_ended("x"));
    }
}
