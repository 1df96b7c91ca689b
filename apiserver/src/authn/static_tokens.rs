//! Tokens in a file (`--token-auth-file`): lines of token, user, uid and, quoted, groups with commas between them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::{Authenticated, Authenticator, Identity, for_the_api};

/// By the token's digest: looking one up takes the same time however much of it is right.
pub struct StaticTokens(HashMap<[u8; 32], Identity>);

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}, line {line}: there must be a token, a user name and a user uid, with commas between them"
    )]
    Columns { path: PathBuf, line: usize },
}

impl StaticTokens {
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|line| FileError::Columns { path: path.to_owned(), line })
    }

    fn parse(text: &str) -> Result<Self, usize> {
        let mut tokens = HashMap::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let columns = columns(line);
            let [token, name, uid, rest @ ..] = columns.as_slice() else { return Err(i + 1) };
            if token.is_empty() {
                continue;
            }
            let groups: Vec<&str> =
                rest.first().map(|groups| groups.split(',').collect()).unwrap_or_default();
            let mut identity = Identity::new(name, &groups);
            identity.uid = Some(uid.clone()).filter(|uid| !uid.is_empty());
            tokens.insert(Sha256::digest(token).into(), identity);
        }
        Ok(Self(tokens))
    }
}

/// The columns of a line of CSV: quotes hold commas, and two of them one quote.
fn columns(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => push(&mut columns, '"'),
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            other => push(&mut columns, other),
        }
    }
    columns
}

fn push(columns: &mut [String], character: char) {
    if let Some(last) = columns.last_mut() {
        last.push(character);
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, String> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        Ok(self.0.get(&digest).and_then(|identity| for_the_api(identity.clone(), audiences)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::token::ISSUER;

    #[tokio::test]
    async fn a_line_is_a_token() {
        let tokens = StaticTokens::parse("abc,jane,u1,\"devs,ops\"\n\ndef,joe,\n,nobody,u3\n").unwrap();
        let audiences = [ISSUER.to_owned()];
        let jane = tokens.authenticate("abc", &audiences).await.unwrap().unwrap().identity;
        assert_eq!((jane.name.as_str(), jane.uid.as_deref()), ("jane", Some("u1")));
        assert_eq!(jane.groups, ["devs", "ops", "system:authenticated"]);
        let joe = tokens.authenticate("def", &audiences).await.unwrap().unwrap().identity;
        assert_eq!((joe.uid, joe.groups), (None, vec!["system:authenticated".to_owned()]));
        for (token, audiences) in [("", &audiences[..]), ("nope", &audiences), ("abc", &["x".to_owned()])] {
            assert_eq!(tokens.authenticate(token, audiences).await, Ok(None), "{token}");
        }
        assert_eq!(StaticTokens::parse("abc,jane").err(), Some(1));
    }
}
