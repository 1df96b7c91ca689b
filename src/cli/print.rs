//! Prints the server's Tables as aligned columns, and objects as YAML or JSON.

use serde::Deserialize;
use serde_json::Value;

pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Option<Vec<Row>>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize)]
struct Row {
    cells: Vec<Value>,
    #[serde(default)]
    object: Value,
}

#[derive(Clone, Copy, Default)]
pub struct TableStyle {
    pub wide: bool,
    pub namespaces: bool,
    pub headers: bool,
    /// Put before names, as in `pod/web`.
    pub kind_prefix: bool,
}

impl Table {
    pub fn is_empty(&self) -> bool {
        self.rows.as_ref().is_none_or(Vec::is_empty)
    }

    /// Lines, each ended; columns are as wide as their widest cell and three spaces apart.
    pub fn render(&self, style: TableStyle, kind: &str) -> String {
        let shown: Vec<usize> = (0..self.column_definitions.len())
            .filter(|i| style.wide || self.column_definitions[*i].priority == 0)
            .collect();
        let mut lines: Vec<Vec<String>> = Vec::new();
        if style.headers {
            let mut line: Vec<String> =
                shown.iter().map(|i| self.column_definitions[*i].name.to_uppercase()).collect();
            if style.namespaces {
                line.insert(0, "NAMESPACE".into());
            }
            lines.push(line);
        }
        for row in self.rows.iter().flatten() {
            let mut line: Vec<String> =
                shown.iter().map(|i| row.cells.get(*i).map(cell).unwrap_or_default()).collect();
            if style.kind_prefix
                && let Some(name) = line.first_mut()
            {
                *name = format!("{kind}/{name}");
            }
            if style.namespaces {
                line.insert(0, row.object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
            }
            lines.push(line);
        }
        align(&lines)
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| lines.iter().filter_map(|l| l.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in lines {
        for (i, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if i + 1 < line.len() {
                out.extend(std::iter::repeat_n(' ', widths[i] - cell.chars().count() + 3));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_line_up_as_kubectls() {
        let table: Table = serde_json::from_value(json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["web", "1/1", null], "object": {"metadata": {"namespace": "default"}}},
                     {"cells": ["longer", 2, "10.0.0.1"]}]
        }))
        .unwrap();
        let style = TableStyle { headers: true, ..TableStyle::default() };
        assert_eq!(table.render(style, "pod"), "NAME     READY\nweb      1/1\nlonger   2\n");
        let wide = TableStyle { wide: true, namespaces: true, kind_prefix: true, ..style };
        assert_eq!(
            table.render(wide, "pod"),
            "NAMESPACE   NAME         READY   IP\ndefault     pod/web      1/1     <none>\n            pod/longer   2       10.0.0.1\n"
        );
    }
}
