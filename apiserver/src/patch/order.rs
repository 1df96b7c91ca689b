//! The order of a merged list: the patch's elements as the patch has them, the server's where they stood before.

use serde_json::Value;

/// Elements of keyed lists are told apart by their key, scalars by themselves.
fn same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() { a == b } else { a.get(key).is_some() && a.get(key) == b.get(key) }
}

fn place(list: &[Value], item: &Value, key: &str) -> Option<usize> {
    list.iter().position(|have| same(have, item, key))
}

/// `merged` with the elements that `order` names in its order, and the others between them as `before` had them. Where
/// nothing says which comes first, the ordered one does.
pub fn ordered(merged: Vec<Value>, order: &[Value], before: &[Value], key: &str) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(order, item, key).is_some());
    named.sort_by_key(|item| place(order, item, key));
    others.sort_by_key(|item| place(before, item, key).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(name), Some(other)) = (named.peek(), others.peek()) {
        let other_first = match (place(before, other, key), place(before, name, key)) {
            (Some(other), Some(name)) => other < name,
            _ => false,
        };
        result.extend(if other_first { others.next() } else { named.next() });
    }
    result.extend(named);
    result.extend(others);
    result
}

/// Whether `items` all stand in `order`, one after another.
pub fn in_order(items: &[&Value], order: &[Value], key: &str) -> bool {
    let mut rest = order.iter();
    items.iter().all(|item| rest.any(|have| same(have, item, key)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(value: Value) -> Vec<Value> {
        value.as_array().cloned().unwrap_or_default()
    }

    #[test]
    fn scalars() {
        for (merged, order, before, want) in [
            (json!([1, 2, 3]), json!([3, 1]), json!([1, 2, 3]), json!([2, 3, 1])),
            (json!(["a", "b", "c"]), json!(["c"]), json!(["a", "b"]), json!(["c", "a", "b"])),
            (json!(["a", "b"]), json!([]), json!(["b", "a"]), json!(["b", "a"])),
            (json!([4, 1]), json!([1, 4]), json!([4]), json!([1, 4])),
        ] {
            assert_eq!(Value::Array(ordered(list(merged), &list(order), &list(before), "")), want);
        }
    }

    #[test]
    fn order_checks() {
        let order = list(json!([{"n": 1}, {"n": 2}, {"n": 3}]));
        for (items, fits) in [
            (json!([{"n": 1}, {"n": 3}]), true),
            (json!([{"n": 3}, {"n": 1}]), false),
            (json!([{"n": 4}]), false),
            (json!([]), true),
        ] {
            let items = list(items);
            assert_eq!(in_order(&items.iter().collect::<Vec<_>>(), &order, "n"), fits);
        }
    }
}
