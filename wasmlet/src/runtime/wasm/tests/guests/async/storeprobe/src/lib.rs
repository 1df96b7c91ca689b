//! A command that does what its arguments say with wasi:config and wasi:keyvalue, and prints what came of it.

mod bindings {
    wit_bindgen::generate!({
        inline: r#"
            package test:storeprobe;

            world storeprobe {
                import wasi:config/store@0.2.0-rc.1;
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
            }

            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
            package wasi:keyvalue@0.2.0-draft {
                interface store {
                    variant error { no-such-store, access-denied, other(string) }
                    record key-response { keys: list<string>, cursor: option<u64> }
                    open: func(identifier: string) -> result<bucket, error>;
                    resource bucket {
                        get: func(key: string) -> result<option<list<u8>>, error>;
                        set: func(key: string, value: list<u8>) -> result<_, error>;
                        delete: func(key: string) -> result<_, error>;
                        exists: func(key: string) -> result<bool, error>;
                        list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                    }
                }
                interface atomics {
                    use store.{bucket, error};
                    increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
                }
                interface batch {
                    use store.{bucket, error};
                    get-many: func(bucket: borrow<bucket>, keys: list<string>)
                        -> result<list<option<tuple<string, list<u8>>>>, error>;
                    set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                    delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
                }
            }
        "#,
        world: "storeprobe",
        generate_all,
    });
}

use bindings::wasi::config::store as config;
use bindings::wasi::keyvalue::store::{self, Bucket, Error};
use bindings::wasi::keyvalue::{atomics, batch};

wasip2::cli::command::export!(Probe);

struct Probe;

impl wasip2::exports::cli::run::Guest for Probe {
    fn run() -> Result<(), ()> {
        let args = wasip2::cli::environment::get_arguments();
        let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
        for command in words.split(|word| *word == ";") {
            println!("{}", run(command));
        }
        Ok(())
    }
}

fn run(words: &[&str]) -> String {
    match words {
        ["config"] => match config::get_all() {
            Ok(mut all) => {
                all.sort();
                all.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
            }
            Err(error) => format!("error {error:?}"),
        },
        ["config", key] => match config::get(key) {
            Ok(Some(value)) => value,
            Ok(None) => "none".into(),
            Err(error) => format!("error {error:?}"),
        },
        [bucket, rest @ ..] => {
            let name = if *bucket == "-" { "" } else { bucket };
            match store::open(name).and_then(|bucket| keyvalue(&bucket, rest)) {
                Ok(text) => text,
                Err(Error::NoSuchStore) => "error no-such-store".into(),
                Err(Error::AccessDenied) => "error access-denied".into(),
                Err(Error::Other(text)) => format!("error {text}"),
            }
        }
        [] => String::new(),
    }
}

fn keyvalue(bucket: &Bucket, words: &[&str]) -> Result<String, Error> {
    let text = |value: Option<Vec<u8>>| value.map_or("none".into(), |v| String::from_utf8_lossy(&v).into_owned());
    Ok(match words {
        ["get", key] => text(bucket.get(key)?),
        ["set", key, value] => bucket.set(key, value.as_bytes()).map(|()| "set".into())?,
        ["fill", key, bytes] => {
            let value = vec![b'x'; bytes.parse().unwrap_or(0)];
            bucket.set(key, &value).map(|()| "filled".into())?
        }
        ["delete", key] => bucket.delete(key).map(|()| "deleted".into())?,
        ["exists", key] => bucket.exists(key)?.to_string(),
        ["add", key, delta] => atomics::increment(bucket, key, delta.parse().unwrap_or(0))?.to_string(),
        ["keys"] => {
            let (mut keys, mut cursor, mut pages) = (Vec::new(), None, 0);
            loop {
                let page = bucket.list_keys(cursor)?;
                pages += 1;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break;
                }
            }
            if keys.len() > 20 { format!("{} keys in {pages} pages", keys.len()) } else { keys.join(" ") }
        }
        ["many", count] => {
            let count: usize = count.parse().unwrap_or(0);
            let values: Vec<_> = (0..count).map(|n| (format!("k{n:06}"), b"v".to_vec())).collect();
            batch::set_many(bucket, &values)?;
            "set".into()
        }
        ["batch"] => {
            batch::set_many(bucket, &[("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())])?;
            batch::delete_many(bucket, &["b".into()])?;
            let got = batch::get_many(bucket, &["a".into(), "b".into()])?;
            got.into_iter().map(|pair| text(pair.map(|(_, value)| value))).collect::<Vec<_>>().join(" ")
        }
        _ => "what?".into(),
    })
}
