//! The closed sets of words that a manifest chooses from, each with its text in one place.

/// Makes an enum whose variants are words of the manifest; the first one is the default.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $(#[$first_doc:meta])* $first:ident = $first_word:literal,
        $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(#[$first_doc])* #[default] $first,
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every word, the default first.
            pub(crate) const WORDS: &'static [&'static str] = &[$first_word, $($word,)*];

            /// The word that stands for it in a manifest.
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
    /// What a plugin is built into.
    Kind {
        /// A dynamic library behind the stable ABI, or code compiled into the host.
        Library = "library",
        /// A program of its own.
        Process = "process",
    }
}

words! {
    /// The socket that a process plugin is asked to listen at.
    SocketType {
        /// A Unix socket, in a folder that no other user can look into.
        Unix = "unix",
        /// A port of 127.0.0.1, which every user of the machine can reach.
        Tcp = "tcp",
    }
}

words! {
    /// How a reload passes state from the old generation to the new one.
    Handover {
        /// The old generation serves while the snapshot travels.
        Overlap = "overlap",
        /// New calls wait until the snapshot has travelled, so nothing is lost.
        Pause = "pause",
        /// The old generation is stopped before the new one starts.
        StopFirst = "stop-first",
    }
}

words! {
    /// Whether a retired library may be unmapped.
    Unload {
        /// It is closed as soon as nothing of it is in use.
        Auto = "auto",
        /// It stays mapped until the program ends.
        Keep = "keep",
    }
}
