//! What a call may raise that says more of its worker than of itself.

use std::time::Duration;

/// A worker is to take nothing new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Poison {
    pub(crate) reason: String,
    pub(crate) mends: Mends,
}

/// Whether it may be well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mends {
    After(Duration),
    /// Only another process is.
    Never,
}

/// What a lack of memory takes to pass.
const PASSES: Mends = Mends::After(Duration::from_secs(60));

/// The errors of CUDA after which, as its reference has it, all work of the process fails with the same error.
const FATAL: [&str; 12] = [
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "not supported on global/shared address space",
    "hardware stack error",
    "launch timed out",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "corrupted contents",
];

/// Why the worker is to be tainted, if the exception says so: it has no memory left, or CUDA has failed there.
/// Out of memory on a device is neither.
pub(crate) fn poison(module: &str, type_name: &str, message: &str) -> Option<Poison> {
    let is_memory = match module {
        "builtins" => type_name == "MemoryError",
        // What numpy raises is a subclass of it.
        _ => type_name == "_ArrayMemoryError" && module.starts_with("numpy."),
    };
    let is_of_torch = module == "torch" || module.starts_with("torch.");
    let is_runtime = module == "builtins" && type_name == "RuntimeError";
    let is_cuda = (is_runtime || is_of_torch) && message.contains("CUDA error");
    (is_memory || is_cuda).then(|| {
        let line: String = message.lines().next().unwrap_or_default().chars().take(MOST_TOLD).collect();
        let told = if line.is_empty() { String::new() } else { format!(": {line}") };
        let is_fatal = is_cuda && FATAL.iter().any(|fatal| message.contains(fatal));
        let mends = if is_fatal { Mends::Never } else { PASSES };
        Poison { reason: format!("a call raised {type_name}{told}"), mends }
    })
}

/// Of a message that may be long.
const MOST_TOLD: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_memory_and_fatal_errors_of_cuda_speak_of_the_worker() {
        let assert = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later";
        for (module, type_name, message, told) in [
            ("builtins", "MemoryError", "", Some("a call raised MemoryError")),
            ("builtins", "MemoryError", "no room", Some("a call raised MemoryError: no room")),
            ("numpy._core._exceptions", "_ArrayMemoryError", "8 TiB", Some("a call raised _ArrayMemoryError: 8 TiB")),
            (
                "builtins",
                "RuntimeError",
                assert,
                Some("a call raised RuntimeError: CUDA error: device-side assert triggered"),
            ),
            ("torch", "AcceleratorError", "CUDA error: x", Some("a call raised AcceleratorError: CUDA error: x")),
            ("torch.cuda", "OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB", None),
            ("builtins", "RuntimeError", "no CUDA device", None),
            ("builtins", "ValueError", "CUDA error: said by somebody", None),
            ("torchlight", "Odd", "CUDA error: x", None),
            ("mine", "MemoryError", "", None),
        ] {
            let poison = poison(module, type_name, message);
            assert_eq!(poison.map(|poison| poison.reason).as_deref(), told, "{module}.{type_name}");
        }
    }

    #[test]
    fn only_what_breaks_the_context_never_mends() {
        for (message, mends) in [
            ("CUDA error: an illegal memory access was encountered", Mends::Never),
            ("CUDA error: device-side assert triggered\nmore", Mends::Never),
            ("CUDA error: out of memory", PASSES),
            ("CUDA error: invalid argument", PASSES),
        ] {
            let poison = poison("builtins", "RuntimeError", message).expect("it taints");
            assert_eq!(poison.mends, mends, "{message}");
        }
        let other = poison("builtins", "MemoryError", "illegal memory access").expect("it taints");
        assert_eq!(other.mends, PASSES);
    }

    #[test]
    fn a_long_message_is_cut() {
        let told = poison("builtins", "MemoryError", &"é".repeat(10_000)).expect("it taints");
        assert_eq!(told.reason.chars().count(), "a call raised MemoryError: ".len() + MOST_TOLD);
    }
}
