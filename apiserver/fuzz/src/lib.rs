//! Objects out of a fuzzer's bytes: a sample varied, so that most of what comes is near to what is accepted.

use serde_json::{Map, Value, json};

/// Values within values that are made up.
const DEPTH_MAX: usize = 6;
/// Items that one list or map gets at most beyond its sample's.
const EXTRA_MAX: usize = 3;

/// Reads choices off the input; when it is at its end every choice is the first.
pub struct Choices<'a> {
    bytes: &'a [u8],
    /// Names and texts that a made-up value is likely to need.
    words: &'a [&'a str],
}

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8], words: &'a [&'a str]) -> Self {
        Self { bytes, words }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.byte() as usize % end.max(1)
    }

    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    fn word(&mut self) -> String {
        match self.byte() {
            0..=15 => String::new(),
            16..=31 => char::from(self.byte()).to_string(),
            at => self.words[at as usize % self.words.len()].to_owned(),
        }
    }

    fn scalar(&mut self) -> Value {
        match self.below(10) {
            0 => Value::Null,
            1 => json!(self.byte() & 1 == 0),
            2 => json!(i64::from(self.byte()) - 100),
            3 => json!(*self.pick(&[0, 1, i64::MAX, i64::MIN, i64::from(i32::MAX) + 1, 1 << 53])),
            4 => json!(*self.pick(&[0.0, -0.0, 0.5, 1e300, 1e-300, 1e15, 3.0])),
            _ => json!(self.word()),
        }
    }

    /// Any value at all, made of the words.
    pub fn made_up(&mut self, depth: usize) -> Value {
        match self.below(4) {
            2 if depth < DEPTH_MAX => {
                (0..self.below(EXTRA_MAX + 1)).map(|_| self.made_up(depth + 1)).collect()
            }
            3 if depth < DEPTH_MAX => {
                let count = self.below(EXTRA_MAX + 1);
                Value::Object((0..count).map(|_| (self.word(), self.made_up(depth + 1))).collect())
            }
            _ => self.scalar(),
        }
    }

    /// The sample, or something like it: members and items left out, doubled, moved, exchanged or made up.
    pub fn vary(&mut self, sample: &Value) -> Value {
        // Most of a sample stays, or nothing would ever be accepted.
        match self.byte() {
            0..=199 => self.vary_within(sample),
            200..=239 => sample.clone(),
            240..=247 => self.scalar(),
            _ => self.made_up(0),
        }
    }

    fn vary_within(&mut self, sample: &Value) -> Value {
        match sample {
            Value::Object(members) => {
                let mut varied = Map::new();
                for (name, value) in members {
                    match self.byte() {
                        0..=191 => varied.insert(name.clone(), self.vary(value)),
                        192..=207 => varied.insert(self.word(), value.clone()),
                        _ => None,
                    };
                }
                if self.byte() > 200 {
                    varied.insert(self.word(), self.made_up(0));
                }
                Value::Object(varied)
            }
            Value::Array(items) => {
                let mut varied = Vec::new();
                for item in items {
                    match self.byte() {
                        0..=159 => varied.push(self.vary(item)),
                        160..=191 => varied.insert(0, self.vary(item)),
                        192..=215 => varied.extend([self.vary(item), self.vary(item)]),
                        216..=223 => varied.push(self.made_up(0)),
                        _ => {}
                    }
                }
                Value::Array(varied)
            }
            scalar => match self.byte() {
                0..=199 => scalar.clone(),
                _ => self.scalar(),
            },
        }
    }
}
