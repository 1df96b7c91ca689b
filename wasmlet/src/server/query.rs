//! Query parameters of the node's server.

/// The decoded pairs, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Self {
        Query(form(query).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.iter().filter(|(n, _)| *n == name).map(|(_, value)| value.to_owned()).collect()
    }

    /// As the kubelet reads it: `1` or `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.iter().any(|(n, value)| n == name && matches!(value, "1" | "true" | "True" | "t" | "TRUE"))
    }
}

fn form(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(name), decode(value))
    })
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = || u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok();
        match (byte, hex()) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(*other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let query = Query::parse("command=echo&command=a%20b+c&input=1&tty=0&x");
        assert_eq!(query.all("command"), ["echo", "a b c"]);
        assert!(query.flag("input") && !query.flag("tty") && !query.flag("x"));
    }
}
