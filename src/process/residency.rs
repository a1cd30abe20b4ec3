//! How much memory a process has resident, as the kernel counts it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A kept descriptor of a process's `statm`: of that process, though its number were used again.
#[derive(Debug)]
pub(crate) struct Residency(File);

impl Residency {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/statm")).map(Self)
    }

    /// In bytes; 0 if the system does not say.
    pub(crate) fn bytes(&self) -> u64 {
        // Seven numbers of at most twenty digits.
        let mut text = [0; 160];
        let Ok(length) = self.0.read_at(&mut text, 0) else { return 0 };
        let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
        let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or(0) * rustix::param::page_size() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_is_resident_and_a_process_that_is_gone_has_nothing() {
        let own = Residency::open(std::process::id()).expect("this process is there");
        let before = own.bytes();
        let memory = vec![1_u8; 64 << 20];
        let more = own.bytes() - before;
        assert!(more > 60 << 20, "{more}");
        drop(memory);
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep can be run");
        let residency = Residency::open(child.id()).expect("it is there");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        assert_eq!(residency.bytes(), 0);
    }
}
