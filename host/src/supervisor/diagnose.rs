//! Why a program did not start, and what to do about it.
