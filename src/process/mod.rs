//! The only unsafe code: zygote client, lifeline, control page, shared blocks, output capture.
