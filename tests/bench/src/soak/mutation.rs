//! Damages a library in realistic ways: truncated, partly zeroed, with flipped bits. The same seed
//! gives the same damage.

/// Makes damaged copies.
#[derive(Debug)]
pub(crate) struct Mutation {
    state: u64,
}

/// The kinds of damage.
pub(crate) const DAMAGES: [&str; 3] = ["truncated", "partly zeroed", "bits flipped"];

impl Mutation {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed | 1 }
    }

    /// Returns a copy of `library` that differs; `damage` counts through [`DAMAGES`].
    pub(crate) fn of(&mut self, library: &[u8], damage: usize) -> Vec<u8> {
        loop {
            let mut bytes = library.to_vec();
            match damage % DAMAGES.len() {
                0 => bytes.truncate(self.below(library.len())),
                1 => {
                    let from = self.below(library.len());
                    let len = 1 + self.below(64 << 10);
                    let to = (from + len).min(library.len());
                    bytes[from..to].fill(0);
                }
                _ => {
                    for _ in 0..=self.below(16) {
                        let at = self.below(library.len());
                        bytes[at] ^= 1 << self.below(8);
                    }
                }
            }
            if bytes != library {
                return bytes;
            }
        }
    }

    fn below(&mut self, end: usize) -> usize {
        // xorshift64.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % end as u64) as usize
    }
}
