//! Bugs that are put in on purpose, to see that the tests notice them: `mutant!("name")` stands where one would be.
//!
//! Without the feature `mutants` it is `false`, and nothing of this is there. With it `SNAKEBRIDGE_MUTANT` chooses
//! the one that a run has, if `SNAKEBRIDGE_WITH_MUTANTS` was set when it was built: a program that is built with all
//! features has no bug that a variable could wake. `tests/mutants.txt` says which tests must fail for each,
//! `tests/mutants.sh` runs them.

#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}

#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:literal) => {
        $crate::mutants::is_chosen($name)
    };
}

pub(crate) use source::of_python;
#[cfg(test)]
pub(crate) use source::worker_py;

#[cfg(feature = "mutants")]
pub(crate) fn is_chosen(name: &str) -> bool {
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| {
        option_env!("SNAKEBRIDGE_WITH_MUTANTS")?;
        std::env::var("SNAKEBRIDGE_MUTANT").ok()
    });
    CHOSEN.as_deref() == Some(name)
}

#[cfg(not(feature = "mutants"))]
mod source {
    use crate::python::Modules;

    /// The source as it is.
    pub(crate) fn of_python(modules: Modules) -> Modules {
        modules
    }

    /// Where that source is, for tests that run it by itself.
    #[cfg(test)]
    pub(crate) fn worker_py() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("worker_py")
    }
}

#[cfg(feature = "mutants")]
mod source {
    use crate::config::Patch;
    use crate::python::Modules;

    /// A text of a file of the workers, and what it is replaced with.
    type Change = (&'static str, &'static str, &'static str);

    const LOOP: &str = "snakebridge_worker/loop.py";
    const INTERRUPTS: &str = "snakebridge_worker/interrupts.py";
    const NAMESPACE: &str = "snakebridge_worker/pid_namespace.py";

    /// The bugs of the Python side.
    const BUGS: &[(&str, &[Change])] = &[
        (
            "python.begun_is_written_late",
            &[
                (LOOP, "        words[begun] = seq\n", ""),
                (
                    LOOP,
                    "                atom = plan.atoms",
                    "                words[begun] = seq\n                atom = plan.atoms",
                ),
            ],
        ),
        ("python.begun_is_not_written", &[(LOOP, "        words[begun] = seq\n", "")]),
        (
            "python.revoke_is_not_read",
            &[(LOOP, "        if revoked[seq % REVOKE_WORDS] == seq:\n", "        if False:\n")],
        ),
        (
            "python.any_call_is_interrupted",
            &[(INTERRUPTS, "if not seq or self._words[seq % INTERRUPT_WORDS] != seq or", "if not seq or")],
        ),
        (
            "python.interrupted_again",
            &[
                (INTERRUPTS, " or self.struck == seq:", ":"),
                (INTERRUPTS, "awaited is not None and self.struck != seq:", "awaited is not None:"),
                (INTERRUPTS, "self._moves == moves and self.struck != seq:", "self._moves == moves:"),
            ],
        ),
        (
            "python.orphans_live_on",
            &[(
                "snakebridge_worker/zygote.py",
                "        for pid in kernel.children():\n            if pid not",
                "        for pid in ():\n            if pid not",
            )],
        ),
        (
            "python.namespace_is_not_joined",
            &[(NAMESPACE, "                kernel.setns(fd, flag)\n", "                pass\n")],
        ),
        (
            "python.init_ignores_the_host",
            &[(NAMESPACE, "            if self.host in ready:\n", "            if False:\n")],
        ),
        ("python.init_is_interrupted", &[(NAMESPACE, "        signal.signal(signal.SIGINT, signal.SIG_DFL)\n", "")]),
        (
            "python.init_kills_nobody",
            &[(NAMESPACE, "            kernel.kill(pid, spared=workers)\n", "            pass\n")],
        ),
        (
            "python.capabilities_are_kept",
            &[(NAMESPACE, "            kernel.drop_capabilities()\n", "            pass\n")],
        ),
        (
            "python.lifeline_is_not_armed",
            &[("snakebridge_worker/child.py", "        kernel.arm(lifeline, os.getpid())\n", "        pass\n")],
        ),
        ("python.fork_answers", &[(LOOP, "        self.forked = True\n", "        pass\n")]),
        (
            "python.part_is_sent_twice",
            &[(
                "snakebridge_worker/streams.py",
                "                del filled.items[: len(items)]\n",
                "                pass\n",
            )],
        ),
        ("python.ref_is_kept", &[(LOOP, "    shared.table.drop(shared.page.count_freed(refs))\n", "")]),
    ];

    fn changed(modules: Modules, changes: &[Change]) -> Result<Modules, String> {
        let patch = |(file, from, to): &Change| Patch { file: (*file).into(), from: (*from).into(), to: (*to).into() };
        modules.patched(&changes.iter().map(patch).collect::<Vec<_>>())
    }

    /// With the bug that is chosen, if it is one of the Python side.
    pub(crate) fn of_python(modules: Modules) -> Modules {
        match BUGS.iter().find(|(name, _)| super::is_chosen(name)) {
            Some((_, changes)) => changed(modules, changes).unwrap_or_else(|what| panic!("{what}")),
            None => modules,
        }
    }

    /// The source with the bug that is chosen, for tests that run it by itself.
    #[cfg(test)]
    pub(crate) fn worker_py() -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("snakebridge-mutant-{}", std::process::id()));
        for (file, source) in Modules::embedded().files() {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("in a package")).expect("a directory");
            std::fs::write(path, source).expect("a file");
        }
        root
    }

    #[test]
    fn every_bug_of_the_python_side_fits_its_source() {
        for (name, changes) in BUGS {
            changed(Modules::embedded(), changes).unwrap_or_else(|what| panic!("{name}: {what}"));
        }
    }
}
