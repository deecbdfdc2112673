//! What a child does between fork and exec.
