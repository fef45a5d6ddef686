//! The file that holds the encryption keys, made at the first start and readable by its owner alone.
//!
//! One line a key, the first one encrypts: `ID HEX`. Ids are random, so that a key that was lost and made anew is
//! not taken for the old one. Rotation is an edit: a new line in front. Decides nothing about what is encrypted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::cipher::{Encryption, EncryptionKey, Random};

/// A key file is a few lines; what is larger is something else.
const MAX_FILE: u64 = 64 << 10;

impl Encryption {
    /// Encrypts the values under these prefixes with the keys of a file, which is made, durably, if it is missing.
    pub fn from_key_file(
        path: &Path,
        prefixes: Vec<String>,
        random: &Random,
    ) -> Result<Encryption, StoreError> {
        let keys = match fs::metadata(path) {
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(invalid(path, format!("others can read it (mode {mode:o}); run chmod 600")));
                }
                if metadata.len() > MAX_FILE {
                    return Err(invalid(path, format!("it is larger than {MAX_FILE} bytes")));
                }
                let text = fs::read_to_string(path).map_err(|error| failed("reading", path, error))?;
                parse(path, &text)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![create(path, random)?],
            Err(error) => return Err(failed("reading", path, error)),
        };
        Ok(Encryption { prefixes, keys })
    }
}

fn create(path: &Path, random: &Random) -> Result<EncryptionKey, StoreError> {
    let (mut id, mut secret) = ([0; 4], [0; 32]);
    random(&mut id)
        .and_then(|()| random(&mut secret))
        .map_err(|error| failed("drawing a key for", path, error))?;
    let key = EncryptionKey { id: u32::from_le_bytes(id), secret };
    write(path, &format(&key)).map_err(|error| failed("creating", path, error))?;
    tracing::info!(file = %path.display(), "made a key to encrypt what is stored: back it up with the data");
    Ok(key)
}

/// Complete and durable under its name, or not there: a lost key is lost data.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut temporary = PathBuf::from(path);
    temporary.as_mut_os_string().push(".tmp");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

fn format(key: &EncryptionKey) -> String {
    let mut text = format!("{} ", key.id);
    for byte in key.secret {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    text
}

fn parse(path: &Path, text: &str) -> Result<Vec<EncryptionKey>, StoreError> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = line
            .split_once(' ')
            .and_then(|(id, hex)| Some(EncryptionKey { id: id.parse().ok()?, secret: secret(hex.trim())? }));
        // The line itself is a secret.
        keys.push(key.ok_or_else(|| invalid(path, format!("line {} is not `ID HEX`", number + 1)))?);
    }
    if keys.is_empty() { Err(invalid(path, "it holds no key".to_owned())) } else { Ok(keys) }
}

fn secret(hex: &str) -> Option<[u8; 32]> {
    let mut secret = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, position) in secret.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[position..position + 2], 16).ok()?;
    }
    Some(secret)
}

fn invalid(path: &Path, what: String) -> StoreError {
    StoreError::InvalidOptions(format!("encryption key file {}: {what}", path.display()))
}

fn failed(doing: &str, path: &Path, error: io::Error) -> StoreError {
    StoreError::io(format!("{doing} encryption key file {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::system_random;

    fn load(path: &Path) -> Result<Encryption, StoreError> {
        Encryption::from_key_file(path, vec!["/registry/secrets/".to_owned()], &system_random())
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cred/encryption-key");
        let made = load(&path).expect("made");
        let again = load(&path).expect("read");
        assert_eq!((made.keys[0].id, made.keys[0].secret), (again.keys[0].id, again.keys[0].secret));
        assert_ne!(made.keys[0].secret, [0; 32]);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().expect("a folder")).expect("listed").count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_right_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        load(&path).expect("made");
        let good = fs::read_to_string(&path).expect("read");
        for bad in ["", "# none\n", "12 abcd\n", &good.replace(' ', "x"), &good[..good.len() - 3]] {
            fs::write(&path, bad).expect("written");
            let error = load(&path).expect_err(bad).to_string();
            assert!(error.contains("key"), "{error}");
            assert!(!error.contains(good[12..].trim()), "{error}");
        }
        fs::write(&path, format!("# newest first\n7 {}\n{good}", "ab".repeat(32))).expect("written");
        assert_eq!(load(&path).expect("two keys").keys[0].id, 7);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("opened up");
        assert!(load(&path).expect_err("readable by others").to_string().contains("mode 640"));
    }
}
