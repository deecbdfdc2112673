//! When a child is started again: pure, time and chance are arguments.
