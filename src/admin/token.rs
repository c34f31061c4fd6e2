//! The bearer token: read from its file, compared in constant time.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use axum::http::HeaderValue;
use subtle::ConstantTimeEq;

use super::StartError;

/// Longest first line that is read; what is longer is no token, and might be `/dev/zero`.
const MAX_TOKEN_BYTES: u64 = 4096;

/// The secret that opens everything but health.
#[derive(Clone)]
pub(super) struct Token(Box<[u8]>);

impl Token {
    /// The first line of the file, without blanks around it: visible ASCII, so that it can travel in a header.
    pub(super) fn read(path: &Path) -> Result<Self, StartError> {
        let unfit = |problem| StartError::Token { path: path.to_owned(), problem };
        let mut line = Vec::new();
        File::open(path)
            .and_then(|file| BufReader::new(file.take(MAX_TOKEN_BYTES + 1)).read_until(b'\n', &mut line))
            .map_err(|source| StartError::TokenFile { path: path.to_owned(), source })?;
        let token = line.trim_ascii();
        if token.is_empty() {
            return Err(unfit("is empty"));
        }
        if line.len() as u64 > MAX_TOKEN_BYTES {
            return Err(unfit("is longer than 4096 bytes"));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(unfit("has blanks or characters other than visible ASCII in it"));
        }
        Ok(Self(token.into()))
    }

    /// Whether an `Authorization` header carries it. How long it takes says nothing about where the first wrong byte is.
    pub(super) fn opens(&self, authorization: &HeaderValue) -> bool {
        let Some((scheme, said)) = authorization.as_bytes().split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(said.trim_ascii().ct_eq(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(content: &[u8]) -> Result<Token, StartError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, content).unwrap();
        Token::read(&path)
    }

    fn opens(content: &[u8], header: &str) -> bool {
        token(content).unwrap().opens(&HeaderValue::from_str(header).unwrap())
    }

    #[test]
    fn the_first_line_is_the_token() {
        assert!(opens(b"s3cret\nanother line", "Bearer s3cret"));
        assert!(opens(b"  s3cret \r\n", "bearer  s3cret"));
        assert!(!opens(b"s3cret", "Bearer s3cre"));
        assert!(!opens(b"s3cret", "Bearer s3crets"));
        assert!(!opens(b"s3cret", "Basic s3cret"));
        assert!(!opens(b"s3cret", "Bearer "));
        assert!(!opens(b"s3cret", "s3cret"));
        assert!(!opens(b"s3cret", ""));
    }

    #[test]
    fn what_cannot_be_a_token_is_refused() {
        assert!(matches!(token(b""), Err(StartError::Token { .. })));
        assert!(matches!(token(b"\ns3cret\n"), Err(StartError::Token { .. })));
        assert!(matches!(token(b"two words\n"), Err(StartError::Token { .. })));
        assert!(matches!(token("gehe\u{ef}m\n".as_bytes()), Err(StartError::Token { .. })));
        assert!(matches!(token(&[b'x'; 5000]), Err(StartError::Token { .. })));
        assert!(matches!(Token::read(Path::new("/no/such/file")), Err(StartError::TokenFile { .. })));
    }

    proptest! {
        #[test]
        fn only_the_token_opens(secret in "[!-~]{1,40}", said in "[!-~]{0,40}") {
            let token = Token(secret.as_bytes().into());
            let right = HeaderValue::from_str(&format!("Bearer {secret}")).unwrap();
            prop_assert!(token.opens(&right));
            let other = HeaderValue::from_str(&format!("Bearer {said}")).unwrap();
            prop_assert_eq!(token.opens(&other), said == secret);
        }
    }
}
