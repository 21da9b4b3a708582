//! The versions that were built, as `Cargo.lock` has them.

const LOCK: &str = include_str!("../Cargo.lock");

/// The version of a crate, such as `1.2.3`.
pub fn version(name: &str) -> &'static str {
    let mut lines = LOCK.lines();
    let wanted = format!("name = \"{name}\"");
    lines
        .find(|line| *line == wanted)
        .and_then(|_| lines.next())
        .and_then(|line| line.strip_prefix("version = \""))
        .map_or("of unknown version", |rest| rest.trim_end_matches('"'))
}
