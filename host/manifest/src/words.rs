//! The enums whose variants are words of a manifest.

/// Defines an enum whose variants are words of the manifest; the first one is the default.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $(#[$first_doc:meta])* $first:ident = $first_word:literal,
        $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[$first_doc])* #[default] $first,
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All words, the default first.
            pub(crate) const WORDS: &'static [&'static str] = &[$first_word, $($word,)*];

            /// Returns its word in a manifest.
            pub const fn as_str(self) -> &'static str {
                match self { Self::$first => $first_word, $(Self::$variant => $word,)* }
            }

            pub(crate) fn from_word(word: &str) -> Option<Self> {
                match word {
                    $first_word => Some(Self::$first),
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// The kind of a plugin.
    Kind {
        /// A dynamic library behind the stable ABI, or code compiled into the host.
        Library = "library",
        /// A program that runs in its own process.
        Process = "process",
    }
}

words! {
    /// Where a library runs.
    Isolation {
        /// In the host's process, where a call costs nanoseconds.
        None = "none",
        /// In a child process, which `hotbay-runner` runs.
        Process = "process",
    }
}

words! {
    /// The type of the socket on which a process plugin should listen.
    SocketType {
        /// A Unix socket, in a folder that only this user can access.
        Unix = "unix",
        /// A port of 127.0.0.1, which every user of the machine can reach.
        Tcp = "tcp",
    }
}

words! {
    /// The way in which a reload moves state from the old generation to the new one.
    Handover {
        /// The old generation keeps serving while the snapshot moves.
        Overlap = "overlap",
        /// New calls wait until the snapshot was moved, so nothing is lost.
        Pause = "pause",
        /// The old generation is stopped before the new one starts.
        StopFirst = "stop-first",
    }
}

words! {
    /// Whether a library may be unmapped after an unload.
    Unload {
        /// It is closed as soon as it is unused.
        Auto = "auto",
        /// It stays mapped until the program exits.
        Keep = "keep",
    }
}

words! {
    /// What a confined program of a kind needs to start.
    Preset {
        /// A compiled program: the libraries of the system.
        Native = "native",
        /// A program in Python: its interpreter and standard library.
        Python = "python",
        /// A program in JavaScript: Node.
        Node = "node",
    }
}

words! {
    /// A rule of a sandbox, as far as it can be enforced by itself.
    #[derive(PartialOrd, Ord)]
    SandboxRule {
        /// Only the listed files can be read.
        Read = "read",
        /// Only the listed files can be changed.
        Write = "write",
        /// Only the listed programs can be executed.
        Run = "run",
        /// Only the listed ports can be used.
        Net = "net",
        /// Other processes cannot be signaled, inspected, or reached by sockets.
        Ipc = "ipc",
        /// System calls with which programs have left sandboxes are denied.
        Syscalls = "syscalls",
        /// The program runs in new Linux namespaces: user, IPC and host name, and network if it has no
        /// ports.
        Namespaces = "namespaces",
        /// The limit of memory.
        MemoryBytes = "memory_bytes",
        /// The limit of processes.
        Processes = "processes",
        /// The limit of the share of processor time.
        Cpu = "cpu",
        /// The limit of processor time.
        CpuSeconds = "cpu_seconds",
        /// The limit of processor time of one call.
        CallCpuSeconds = "call_cpu_seconds",
        /// The limit of open files.
        OpenFiles = "open_files",
        /// The limit of the size of files.
        FileBytes = "file_bytes",
    }
}
