//! What a call may raise that says more of its worker than of itself.

use std::time::Duration;

/// For how long a worker takes nothing new whose call has raised such a thing.
pub(crate) const POISONED_FOR: Duration = Duration::from_secs(60);

/// Why the worker is to be tainted, if the exception says so: it has no memory left, or its CUDA context is
/// broken, which no later call can mend. Out of memory on a device is neither.
pub(crate) fn poison(module: &str, type_name: &str, message: &str) -> Option<String> {
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
        format!("a call raised {type_name}{told}")
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
            assert_eq!(poison(module, type_name, message).as_deref(), told, "{module}.{type_name}");
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        let told = poison("builtins", "MemoryError", &"é".repeat(10_000)).expect("it taints");
        assert_eq!(told.chars().count(), "a call raised MemoryError: ".len() + MOST_TOLD);
    }
}
