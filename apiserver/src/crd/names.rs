//! Names that live as long as the process, each kept once: the paths of selectable fields.

use parking_lot::Mutex;

/// The same list for the same paths, however often a definition changes.
pub fn kept(paths: Vec<String>) -> &'static [&'static str] {
    static LISTS: Mutex<Vec<&'static [&'static str]>> = Mutex::new(Vec::new());
    if paths.is_empty() {
        return &[];
    }
    let mut lists = LISTS.lock();
    if let Some(known) = lists.iter().find(|list| list.iter().eq(paths.iter())) {
        return known;
    }
    let list: Vec<&'static str> = paths.into_iter().map(|path| &*Box::leak(path.into_boxed_str())).collect();
    let list: &'static [&'static str] = Vec::leak(list);
    lists.push(list);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_paths_are_kept_once() {
        let list = || kept(vec!["spec.a".into(), "spec.b".into()]);
        assert_eq!(list(), ["spec.a", "spec.b"]);
        assert_eq!(list().as_ptr(), list().as_ptr());
        assert!(kept(Vec::new()).is_empty());
    }
}
