//! Each CPython there is, with the worker's codec loaded, behind one pair of pipes.

use super::{typed, value_of};
use crate::pickle::{to_fragment, want_of};
use crate::python::interpreters;
use crate::value::Value;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub(super) struct Python {
    child: Child,
    to: Option<ChildStdin>,
    from: ChildStdout,
    pub(super) version: String,
}

/// One for every interpreter there is.
pub(super) fn all() -> Vec<Python> {
    interpreters::all().into_iter().map(|(path, version)| Python::start(&path, version)).collect()
}

impl Python {
    fn start(path: &Path, version: String) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(path)
            .args(["-I", "-B"])
            .arg(root.join("src/pickle/tests/driver.py"))
            .arg(root.join("worker_py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter has just answered");
        let (to, from) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        Self { child, to, from, version }
    }

    pub(super) fn ask(&mut self, operation: u8, want: &[u8], payload: &[u8]) -> Result<Vec<u8>, String> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a test is small").to_le_bytes();
        let to = self.to.as_mut().expect("it is taken when this is dropped");
        let request = [&[operation][..], &length(want), &length(payload), want, payload].concat();
        to.write_all(&request).expect("the interpreter lives");
        to.flush().expect("the interpreter lives");
        let mut head = [0; 5];
        self.from.read_exact(&mut head).expect("the interpreter lives");
        let count = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut reply = vec![0; count];
        self.from.read_exact(&mut reply).expect("the interpreter lives");
        if head[0] == b'+' { Ok(reply) } else { Err(String::from_utf8_lossy(&reply).into_owned()) }
    }

    /// The expression as `.await` returns it.
    pub(super) fn value(&mut self, expression: &str) -> Result<Value, String> {
        let body = self.ask(b'E', &[0], expression.as_bytes())?;
        value_of(&body).map_err(|error| format!("{error:?}"))
    }

    /// The expression as `extract::<T>()` returns it.
    pub(super) fn extract<T: DeserializeOwned + 'static>(&mut self, expression: &str) -> Result<T, String> {
        let want = want_of::<T>();
        let body = self.ask(b'E', &want, expression.as_bytes())?;
        typed(&body).map_err(|error| match error {
            super::DecodeError::Convert(error) => error.to_string(),
            other => format!("{other:?}"),
        })
    }

    /// What Python's `ascii` says of an argument.
    pub(super) fn seen<T: serde::Serialize>(&mut self, value: &T) -> Result<String, String> {
        let body = to_fragment(value).map_err(|error| error.to_string())?.into_body();
        Ok(String::from_utf8_lossy(&self.ask(b'D', &[], &body.bytes)?).into_owned())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // The driver ends with its input.
        drop(self.to.take());
        drop(self.child.wait());
    }
}
