//! Damages files in realistic ways: truncated, partly zeroed, with flipped bits. The same seed
//! gives the same damage.

/// Makes damaged copies.
#[derive(Debug)]
pub struct Mutation {
    state: u64,
}

/// The kinds of damage.
pub const DAMAGES: [&str; 3] = ["truncated", "partly zeroed", "bits flipped"];

impl Mutation {
    /// Creates a source of damage.
    pub fn new(seed: u64) -> Self {
        Self { state: seed | 1 }
    }

    /// Returns a copy of `file` that differs, unless `file` is empty; `damage` counts through [`DAMAGES`].
    pub fn of(&mut self, file: &[u8], damage: usize) -> Vec<u8> {
        if file.is_empty() {
            return Vec::new();
        }
        loop {
            let mut bytes = file.to_vec();
            match damage % DAMAGES.len() {
                0 => bytes.truncate(self.below(file.len())),
                1 => {
                    let from = self.below(file.len());
                    let len = 1 + self.below(64 << 10);
                    let to = (from + len).min(file.len());
                    bytes[from..to].fill(0);
                }
                _ => {
                    for _ in 0..=self.below(16) {
                        let at = self.below(file.len());
                        bytes[at] ^= 1 << self.below(8);
                    }
                }
            }
            if bytes != file {
                return bytes;
            }
        }
    }

    /// Returns the start of `one` followed by the end of `other`.
    pub fn splice(&mut self, one: &[u8], other: &[u8]) -> Vec<u8> {
        let (to, from) = (self.below(one.len() + 1), self.below(other.len() + 1));
        [&one[..to], &other[from..]].concat()
    }

    fn below(&mut self, end: usize) -> usize {
        // xorshift64.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % end as u64) as usize
    }
}
