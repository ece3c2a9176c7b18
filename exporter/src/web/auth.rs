//! One token, as Bearer or as the password of Basic authentication (any user name).

use std::sync::{Arc, PoisonError, RwLock};

use headers::authorization::{Basic, Bearer};
use headers::{Authorization, HeaderMapExt};
use hyper::HeaderMap;
use subtle::ConstantTimeEq;

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

    pub(super) fn is_open(&self) -> bool {
        self.token.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// It is the token. In a time that does not depend on where they differ.
    pub(super) fn fits(&self, given: &[u8]) -> bool {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        token.as_ref().is_some_and(|token| bool::from(token.ct_eq(given)))
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::open()
    }
}

/// What a request says of who sends it.
pub(super) struct Credentials {
    /// Of Basic authentication.
    pub(super) name: Option<String>,
    /// Its password, or a Bearer token.
    pub(super) secret: String,
}

/// From the header Authorization (RFC 7617, RFC 6750).
pub(super) fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    if let Ok(Some(basic)) = headers.typed_try_get::<Authorization<Basic>>() {
        let (name, secret) = (basic.username().to_owned(), basic.password().to_owned());
        return Some(Credentials { name: Some(name), secret });
    }
    let bearer = headers.typed_try_get::<Authorization<Bearer>>().ok()??;
    Some(Credentials { name: None, secret: bearer.token().to_owned() })
}

impl std::fmt::Debug for Access {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        f.write_str(if token.is_some() { "Access(token)" } else { "Access(open)" })
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::AUTHORIZATION;

    use super::*;

    #[test]
    fn only_the_token_opens() {
        let access = Access::token("s3cret\n").unwrap();
        let check = |header: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().unwrap());
            let given = credentials(&headers);
            let fits = given.is_some_and(|given| access.fits(given.secret.as_bytes()));
            assert_eq!(fits, expected, "{header}");
        };
        check("Bearer s3cret", true);
        check("bearer  s3cret", true);
        check("Bearer s3cre", false);
        check("Bearer s3cret2", false);
        check("Bearer", false);
        check("Bearer ", false);
        check("s3cret", false);
        check("Basic cHJvbTpzM2NyZXQ=", true);
        check("Basic OnMzY3JldA==", true);
        check("Basic czNjcmV0", false);
        check("Basic cHJvbTp3cm9uZw==", false);
        check("Basic ***", false);
        check("Basic ====", false);
        assert!(credentials(&HeaderMap::new()).is_none());
        assert!(Access::open().is_open() && !access.is_open() && !Access::open().fits(b""));
        assert!(Access::token(" \n").is_none());
        assert!(Access::token("two\nlines").is_none());
        assert!(!format!("{access:?}").contains("s3cret"));
    }
}
