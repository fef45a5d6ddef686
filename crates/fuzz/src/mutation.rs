//! How an input becomes another one. Nothing is known here of what inputs mean but the words of their language.

use api_machinery::entropy::Entropy;

/// The longest input that changes lead to. What is larger than any honest request has tests of its own.
pub const LONGEST: usize = 64 << 10;

/// Numbers at the edges of types.
const NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "127",
    "128",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551616",
    "1e309",
    "1e-400",
    "0.5",
    "-0",
];

/// Changes inputs.
pub struct Mutator<'a> {
    /// What decides.
    pub entropy: &'a Entropy,
    /// Words that mean something to the target.
    pub words: &'a [&'a str],
}

impl Mutator<'_> {
    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.entropy.below(bound as u64)).unwrap_or(0)
    }

    /// A part of an input: where it begins and ends.
    fn part(&self, input: &[u8]) -> (usize, usize) {
        let start = self.below(input.len() + 1);
        let most = (input.len() - start).min(1 << self.below(10));
        (start, start + self.below(most + 1))
    }

    fn word(&self) -> &[u8] {
        let count = self.words.len() + NUMBERS.len();
        let at = self.below(count);
        self.words.get(at).unwrap_or_else(|| &NUMBERS[at - self.words.len()]).as_bytes()
    }

    /// A few changes of an input, some of them parts of another.
    pub fn change(&self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut changed = input.to_vec();
        for _ in 0..=self.below(4) {
            self.once(&mut changed, other);
            changed.truncate(LONGEST);
        }
        changed
    }

    fn once(&self, input: &mut Vec<u8>, other: &[u8]) {
        let (start, end) = self.part(input);
        match self.below(10) {
            0 | 1 => drop(input.splice(start..start, self.word().iter().copied())),
            2 => drop(input.splice(start..end, self.word().iter().copied())),
            3 => drop(input.drain(start..end)),
            4 => self.repeat(input, start, end),
            5 => {
                let (from, to) = self.part(other);
                input.splice(start..end, other[from..to].iter().copied());
            }
            6 => self.another_number(input),
            7 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] ^= 1 << self.below(8);
            }
            8 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] = self.entropy.u64().to_le_bytes()[0];
            }
            _ => {
                let mut bytes = vec![0; 1 + self.below(8)];
                self.entropy.fill(&mut bytes);
                input.splice(start..start, bytes);
            }
        }
    }

    /// Nests deeply, and makes lists long.
    fn repeat(&self, input: &mut Vec<u8>, start: usize, end: usize) {
        let part = input[start..end].to_vec();
        let times = (1 << self.below(12)).min(LONGEST / part.len().max(1));
        input.splice(end..end, part.repeat(times));
    }

    fn another_number(&self, input: &mut Vec<u8>) {
        let starts: Vec<usize> = (0..input.len())
            .filter(|at| input[*at].is_ascii_digit() && (*at == 0 || !input[at - 1].is_ascii_digit()))
            .collect();
        if starts.is_empty() {
            return;
        }
        let start = starts[self.below(starts.len())];
        let digits = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = NUMBERS[self.below(NUMBERS.len())].as_bytes();
        input.splice(start..start + digits, number.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_many_bounded_and_the_same_for_the_same_seed() {
        let run = |seed| -> Vec<Vec<u8>> {
            let entropy = Entropy::seeded(seed);
            let mutator = Mutator { entropy: &entropy, words: &["true", "{"] };
            let mut input = b"{\"a\": 1}".to_vec();
            (0..2000)
                .map(|_| {
                    input = mutator.change(&input, b"[null]");
                    input.clone()
                })
                .collect()
        };
        let inputs = run(1);
        assert!(inputs.iter().all(|input| input.len() <= LONGEST));
        let distinct: std::collections::BTreeSet<&Vec<u8>> = inputs.iter().collect();
        assert!(distinct.len() > 1900, "{}", distinct.len());
        assert_eq!(inputs, run(1));
        assert_ne!(inputs, run(2));
    }
}
