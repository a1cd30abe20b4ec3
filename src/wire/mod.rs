//! Message kinds and headers between host and worker.
