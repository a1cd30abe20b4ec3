//! The worker's loop where calls are interrupted, against a host that follows a script: `interrupts.py`.

use crate::python::interpreters;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn an_interrupt_ends_the_call_that_it_is_meant_for_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checks = interpreters::all().into_iter().map(|(python, version)| {
        let mut check = Command::new(python);
        check
            .args(["-I", "-B", "-W", "error"])
            .arg(root.join("src/wire/interrupts.py"))
            .arg(crate::mutants::worker_py());
        let check = check.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        (check.expect("it has just answered"), version)
    });
    // All at once: what they do most is to wait.
    for (check, version) in checks.collect::<Vec<_>>() {
        let output = check.wait_with_output().expect("it was started");
        assert!(output.status.success(), "Python {version}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
