//! The Python side's source, embedded here and handed over in memory: nothing is installed or written to disk.

use crate::config::Patch;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What the interpreter is given to execute; it makes [`Modules`] importable.
pub(crate) const BOOTSTRAP: &str = include_str!("../../worker_py/bootstrap.py");

macro_rules! sources {
    ($($module:literal: $file:literal,)*) => {
        &[$(($module, $file, include_str!(concat!("../../worker_py/", $file)))),*]
    };
}

/// Each module's name, its file under `worker_py` and its source.
const SOURCES: &[(&str, &str, &str)] = sources! {
    "snakebridge": "snakebridge/__init__.py",
    "snakebridge.call": "snakebridge/call.py",
    "snakebridge.host": "snakebridge/host.py",
    "snakebridge_worker": "snakebridge_worker/__init__.py",
    "snakebridge_worker.blocks": "snakebridge_worker/blocks.py",
    "snakebridge_worker.calls": "snakebridge_worker/calls.py",
    "snakebridge_worker.child": "snakebridge_worker/child.py",
    "snakebridge_worker.codec": "snakebridge_worker/codec.py",
    "snakebridge_worker.contexts": "snakebridge_worker/contexts.py",
    "snakebridge_worker.coroutines": "snakebridge_worker/coroutines.py",
    "snakebridge_worker.errors": "snakebridge_worker/errors.py",
    "snakebridge_worker.host": "snakebridge_worker/host.py",
    "snakebridge_worker.interrupts": "snakebridge_worker/interrupts.py",
    "snakebridge_worker.kernel": "snakebridge_worker/kernel.py",
    "snakebridge_worker.kinds": "snakebridge_worker/kinds.py",
    "snakebridge_worker.loop": "snakebridge_worker/loop.py",
    "snakebridge_worker.namespaces": "snakebridge_worker/namespaces.py",
    "snakebridge_worker.page": "snakebridge_worker/page.py",
    "snakebridge_worker.pid_namespace": "snakebridge_worker/pid_namespace.py",
    "snakebridge_worker.plans": "snakebridge_worker/plans.py",
    "snakebridge_worker.prepare": "snakebridge_worker/prepare.py",
    "snakebridge_worker.refs": "snakebridge_worker/refs.py",
    "snakebridge_worker.shapes": "snakebridge_worker/shapes.py",
    "snakebridge_worker.start": "snakebridge_worker/start.py",
    "snakebridge_worker.streams": "snakebridge_worker/streams.py",
    "snakebridge_worker.wire": "snakebridge_worker/wire.py",
    "snakebridge_worker.zygote": "snakebridge_worker/zygote.py",
};

/// The importable modules of a worker: their names, files and sources.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Modules(BTreeMap<Cow<'static, str>, (Cow<'static, str>, Cow<'static, str>)>);

impl Modules {
    /// Those of this crate.
    pub(crate) fn embedded() -> Self {
        let modules = SOURCES.iter().map(|&(name, file, source)| (name.into(), (file.into(), source.into())));
        crate::mutants::of_python(Self(modules.collect()))
    }

    /// With texts replaced, for tests.
    ///
    /// # Errors
    /// A text that is not there exactly once: what the patch was written for has changed.
    pub(crate) fn patched(mut self, patches: &[Patch]) -> Result<Self, String> {
        for Patch { file, from, to } in patches {
            let Some((_, source)) = self.0.values_mut().find(|(known, _)| known == file) else {
                return Err(format!("a patch of {file}, which is no file of the workers"));
            };
            let count = source.matches(from.as_str()).count();
            if count != 1 {
                return Err(format!("a patch of {file}, where {from:?} stands {count} times and not once"));
            }
            *source = source.replacen(from.as_str(), to, 1).into();
        }
        Ok(self)
    }

    /// Each file under `worker_py`, and its text.
    #[cfg(all(test, feature = "mutants"))]
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.values().map(|(file, source)| (&**file, &**source))
    }

    /// With a module added or replaced.
    #[cfg(test)]
    pub(crate) fn with(mut self, name: &'static str, source: impl Into<Cow<'static, str>>) -> Self {
        self.0.insert(name.into(), (format!("{}.py", name.replace('.', "/")).into(), source.into()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_python_file_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker_py");
        for package in ["snakebridge", "snakebridge_worker"] {
            for entry in std::fs::read_dir(root.join(package)).expect("the package is there") {
                let file = entry.expect("it can be listed").file_name().into_string().expect("a plain name");
                let file = format!("{package}/{file}");
                let known = SOURCES.iter().any(|(_, embedded, _)| *embedded == file);
                assert!(known || !file.ends_with(".py"), "{file} is missing in SOURCES");
            }
        }
    }
}
