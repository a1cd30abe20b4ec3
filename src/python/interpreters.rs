//! Test only: each CPython that this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Every interpreter from 3.10 on, with its version: `python3`, and those of pyenv.
pub(crate) fn all() -> Vec<(PathBuf, String)> {
    let home = std::env::var("PYENV_ROOT").map(PathBuf::from);
    let home = home.or_else(|_| std::env::var("HOME").map(|home| Path::new(&home).join(".pyenv")));
    // First, so that it stands for its version: it may have libraries that the others have not.
    let chosen = std::env::var_os("SNAKEBRIDGE_PYTHON").map(PathBuf::from);
    let mut paths: Vec<_> = chosen.into_iter().chain([PathBuf::from("python3")]).collect();
    let versions = home.ok().and_then(|home| std::fs::read_dir(home.join("versions")).ok());
    paths.extend(versions.into_iter().flatten().flatten().map(|version| version.path().join("bin/python3")));
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    for path in paths {
        let Some(version) = version(&path) else { continue };
        if !found.iter().any(|(_, other)| *other == version) {
            found.push((path, version));
        }
    }
    assert!(!found.is_empty(), "no python3 from 3.10 on");
    found
}

fn version(path: &Path) -> Option<String> {
    let code = "import sys; assert sys.version_info >= (3, 10); print(sys.version.split()[0])";
    let output = Command::new(path).args(["-c", code]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
