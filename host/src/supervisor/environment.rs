//! What of the host's environment a child gets.
