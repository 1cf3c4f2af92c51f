//! Passwords that nobody thinks up.

use crate::failure::Failure;
use model::{Class, Secret};
use repository::Kdf;

/// Letters and digits that are not mistaken for each other (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Generated password files begin with this, so that a generated password is known for one.
const MARK: &str = "mainstay-";

/// Characters after the mark: 260 bits.
const LENGTH: usize = 52;

/// A password for a file.
pub(crate) fn for_file() -> Result<Secret, Failure> {
    Ok(Secret::new(format!("{MARK}{}", characters(LENGTH)?)))
}

/// A password that a person can write down and type: eight groups of four, 160 bits.
pub(crate) fn for_people() -> Result<Secret, Failure> {
    let characters = characters(32)?;
    let mut text = String::new();
    for (at, character) in characters.chars().enumerate() {
        if at > 0 && at % 4 == 0 {
            text.push('-');
        }
        text.push(character);
    }
    Ok(Secret::new(text))
}

/// What was probably meant by a recovery key as somebody typed it: capitals, spaces for dashes, and
/// the letters that the alphabet leaves out for their likeness.
pub(crate) fn as_meant(typed: &str) -> Option<Secret> {
    let mut characters = Vec::new();
    for character in typed.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        let character = match character.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        };
        u8::try_from(character).ok().filter(|byte| ALPHABET.contains(byte))?;
        characters.push(character);
    }
    if characters.len() != 32 {
        return None;
    }
    let groups: Vec<String> = characters.chunks(4).map(|group| group.iter().collect()).collect();
    Some(Secret::new(groups.join("-")))
}

/// How expensive a key for this password must be.
pub(crate) fn kdf(password: &Secret) -> Kdf {
    let generated = password.expose().strip_prefix(MARK).is_some_and(|rest| {
        rest.len() == LENGTH && rest.bytes().all(|byte| ALPHABET.contains(&byte))
    });
    if generated { Kdf::Fast } else { Kdf::Slow }
}

fn characters(count: usize) -> Result<String, Failure> {
    let mut random = vec![0; count];
    getrandom::fill(&mut random)
        .map_err(|e| Failure::new(Class::Failed, format!("cannot get random bytes: {e}")))?;
    // 32 divides 256, so every character is as likely as another.
    Ok(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_passwords_are_known_for_such() {
        let one = for_file().unwrap();
        assert_eq!(kdf(&one), Kdf::Fast);
        assert_ne!(one, for_file().unwrap());
        for thought_up in ["", "secret", "mainstay-", "mainstay-secret"] {
            assert_eq!(kdf(&Secret::new(thought_up.to_owned())), Kdf::Slow);
        }
    }

    #[test]
    fn recovery_keys_survive_being_typed() {
        let key = for_people().unwrap();
        assert_eq!(key.expose().len(), 39);
        assert_eq!(as_meant(key.expose()), Some(key.clone()));
        let typed = key.expose().to_uppercase().replace('-', " ").replace('0', "O");
        assert_eq!(as_meant(&typed.replace('1', "l")), Some(key));
        for other in ["", "secret", "abcd-efgh", "u".repeat(32).as_str()] {
            assert_eq!(as_meant(other), None);
        }
    }
}
