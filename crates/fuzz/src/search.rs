//! The corpus, and the search for inputs that do harm: inputs of which something new is said are changed further.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_machinery::entropy::Entropy;
use tokio::time::Instant;

use crate::Target;
use crate::harm::{Harm, attempt};
use crate::mutation::Mutator;

/// The most inputs that are kept to be changed.
const POOL: usize = 4096;
/// How much of what is said counts.
const SAID: usize = 160;

/// How long a search goes on.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// So many inputs.
    Inputs(u64),
    /// So long.
    Time(Duration),
}

/// Why a search ended early.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// An input did harm; it is in a file.
    #[error(
        "{target}: an input {harm}\n  it is in {file}: put it into crates/fuzz/corpus/{target}/ and mend what it breaks"
    )]
    Harmed {
        /// Which target.
        target: &'static str,
        /// What it did.
        harm: Harm,
        /// Where the input is.
        file: PathBuf,
    },
    /// The corpus cannot be read, or an input not be written down.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// What a search did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// How many inputs were tried.
    pub inputs: u64,
    /// How many different things were said of them.
    pub said: usize,
}

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> SearchError {
    move |error| SearchError::File { path: path.to_owned(), error }
}

/// The inputs of a target that are in the repository, in the order of their names.
///
/// # Errors
/// They cannot be read.
pub fn corpus(target: &Target) -> Result<Vec<(PathBuf, Vec<u8>)>, SearchError> {
    let folder = crate_folder().join("corpus").join(target.name);
    let entries = fs::read_dir(&folder).map_err(failed(&folder))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(failed(&folder))?;
    files.sort();
    files.into_iter().map(|file| fs::read(&file).map_err(failed(&file)).map(|input| (file, input))).collect()
}

/// Tries the corpus and then changes of it, as the seed decides.
///
/// # Errors
/// An input did harm.
pub fn search(target: &Target, seed: u64, budget: Budget) -> Result<Found, SearchError> {
    let mut search = Search::new(target)?;
    for (file, input) in corpus(target)? {
        // A stack that overflows takes the process with it: then this line says what did it.
        println!("{}", file.display());
        search.attempt(input)?;
    }
    println!("{}: changes, seed {seed}; the last one is in {}", target.name, search.last_path.display());
    let entropy = Entropy::seeded(seed);
    let mutator = Mutator { entropy: &entropy, words: target.words };
    let start = Instant::now();
    let mut tried = 0;
    while match budget {
        Budget::Inputs(most) => tried < most,
        Budget::Time(longest) => start.elapsed() < longest,
    } {
        let any = || entropy.below(search.pool.len() as u64) as usize;
        let input = match search.pool.is_empty() {
            true => mutator.change(&[], &[]),
            false => mutator.change(&search.pool[any()], &search.pool[any()]),
        };
        search.attempt(input)?;
        tried += 1;
    }
    Ok(Found { inputs: tried, said: search.said.len() })
}

struct Search<'a> {
    target: &'a Target,
    /// Inputs worth changing.
    pool: Vec<Vec<u8>>,
    said: BTreeSet<String>,
    /// Where the input under test is, for whoever is left when it took the process with it.
    last: File,
    last_path: PathBuf,
}

impl<'a> Search<'a> {
    fn new(target: &'a Target) -> Result<Search<'a>, SearchError> {
        let folder = crate_folder().join("../../out/fuzz");
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let last_path = folder.join(format!("{}.last", target.name));
        let last = File::create(&last_path).map_err(failed(&last_path))?;
        Ok(Search { target, pool: Vec::new(), said: BTreeSet::new(), last, last_path })
    }

    fn attempt(&mut self, input: Vec<u8>) -> Result<(), SearchError> {
        let wrote = self.last.set_len(0).and_then(|()| self.last.write_all_at(&input, 0));
        wrote.map_err(failed(&self.last_path))?;
        match attempt(self.target, &input) {
            Ok(said) => {
                if self.said.insert(gist(&said)) && self.pool.len() < POOL {
                    self.pool.push(input);
                }
                Ok(())
            }
            Err(harm) => {
                let file = self.last_path.with_extension("harmful");
                fs::write(&file, &input).map_err(failed(&file))?;
                Err(SearchError::Harmed { target: self.target.name, harm, file })
            }
        }
    }
}

/// What is said without what it quotes: names and numbers of the input are not news.
fn gist(said: &str) -> String {
    let mut quoted = false;
    let letters = said.chars().filter(|letter| {
        quoted ^= *letter == '"';
        !quoted && (letter.is_ascii_alphabetic() || letter.is_ascii_punctuation())
    });
    letters.take(SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gist_leaves_out_names_and_numbers() {
        assert_eq!(gist("unknown field \"spec.x1\" at 7: bad"), "unknownfield\"at:bad");
        assert_eq!(gist("unknown field \"y\" at 12: bad"), gist("unknown field \"spec.x1\" at 7: bad"));
    }

    #[test]
    fn what_does_harm_deep_inside_is_found() {
        fn run(input: &[u8]) -> String {
            let right = input.iter().zip(b"{\"a\":[").take_while(|(a, b)| a == b).count();
            assert!(right < 6, "that far");
            "abcdef"[..right].to_owned()
        }
        let target = Target { name: "json", run, words: &["{", "\"a\"", ":", "["] };
        let error = search(&target, 1, Budget::Inputs(100_000)).expect_err("it is there");
        let SearchError::Harmed { harm, file, .. } = &error else { panic!("{error}") };
        assert_eq!(harm.to_string(), "panicked: that far");
        assert!(fs::read(file).expect("it is written down").starts_with(b"{\"a\":["));
        fs::remove_file(file).expect("it was there");
    }
}
