//! One token, as Bearer or as the password of Basic authentication (any user name).

use std::sync::{Arc, PoisonError, RwLock};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

/// Who may read.
#[derive(Clone)]
pub struct Access {
    /// Shared by all copies, so that another token holds for all.
    token: Arc<RwLock<Option<Vec<u8>>>>,
}

impl Access {
    /// Everyone.
    pub fn open() -> Self {
        Self { token: Arc::default() }
    }

    /// Those with the token, given as the content of its file; `None` when that is empty or more
    /// than one line.
    pub fn token(content: &str) -> Option<Self> {
        let access = Self::open();
        access.renew(content).then_some(access)
    }

    /// Takes another token, as [`Access::token`] does; false when it is none, and nothing changes.
    pub fn renew(&self, content: &str) -> bool {
        let token = content.trim();
        let sound = !token.is_empty() && !token.contains(char::is_control);
        if sound {
            let mut held = self.token.write().unwrap_or_else(PoisonError::into_inner);
            *held = Some(token.into());
        }
        sound
    }

    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        let Some(token) = &*token else { return true };
        let given = headers.get(AUTHORIZATION).and_then(|value| secret(value.as_bytes()));
        given.is_some_and(|given| same(&given, token))
    }
}

impl std::fmt::Debug for Access {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        f.write_str(if token.is_some() { "Access(token)" } else { "Access(open)" })
    }
}

fn secret(header: &[u8]) -> Option<Vec<u8>> {
    let space = header.iter().position(|&byte| byte == b' ')?;
    let (scheme, rest) = (&header[..space], header[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = base64(rest)?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// In a time that does not depend on where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// RFC 4648 §4, padding optional.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for &byte in &text[..text.len() - padding] {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (padding <= 2).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let access = Access::token("s3cret\n").unwrap();
        let check = |header: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().unwrap());
            assert_eq!(access.allows(&headers), expected, "{header}");
            assert!(Access::open().allows(&headers));
        };
        check("Bearer s3cret", true);
        check("bearer  s3cret", true);
        check("Bearer s3cre", false);
        check("Bearer s3cret2", false);
        check("Bearer", false);
        check("Bearer ", false);
        check("s3cret", false);
        check("Basic cHJvbTpzM2NyZXQ=", true);
        check("Basic cHJvbTpzM2NyZXQ", true);
        check("Basic OnMzY3JldA==", true);
        check("Basic czNjcmV0", false);
        check("Basic cHJvbTp3cm9uZw==", false);
        check("Basic ***", false);
        check("Basic ====", false);
        assert!(!access.allows(&HeaderMap::new()));
        assert!(Access::token(" \n").is_none());
        assert!(Access::token("two\nlines").is_none());
        assert!(!format!("{access:?}").contains("s3cret"));
    }
}
