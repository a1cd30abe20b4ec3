//! The worker's loop where calls call the host, against a host that follows a script: `callbacks.py`.

use crate::python::interpreters;
use std::path::Path;
use std::process::Command;

#[test]
fn calls_of_the_host_and_nested_calls_are_what_the_wire_protocol_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (python, version) in interpreters::all() {
        let mut check = Command::new(python);
        check.args(["-I", "-B", "-W", "error"]).arg(root.join("src/wire/callbacks.py"));
        let output = check.arg(crate::mutants::worker_py()).output().expect("it has just answered");
        assert!(output.status.success(), "Python {version}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
