//! ServiceCIDR: a range that services' cluster addresses come from.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};

use super::{BuiltIn, Column, address_formats as formats};
use crate::field_error::{Errors, Path};
use crate::table;

impl BuiltIn for ServiceCIDR {
    const SINGULAR: &'static str = "servicecidr";
    const HAS_STATUS: bool = true;
    const STATUS_RESETS: &'static [&'static [&'static str]] = &[&["metadata"], &["spec"]];

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self) {
        self.status = Some(Default::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let path = path.child("cidrs");
        let cidrs = cidrs(self);
        match cidrs {
            [] => return errors.required(path, "at least one CIDR required"),
            [_] | [_, _] => {}
            _ => return errors.invalid(path, json!({ "CIDRs": cidrs }), "may only hold up to 2 values"),
        }
        for (i, cidr) in cidrs.iter().enumerate() {
            errors.check(path.index(i), cidr, formats::canonical_cidr);
        }
        if let [first, second] = cidrs
            && let (Ok(first), Ok(second)) = (formats::network(first), formats::network(second))
            && first.0.is_ipv4() == second.0.is_ipv4()
        {
            let detail =
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.invalid(path, cidrs, detail);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        const IMMUTABLE: &str = "field is immutable";
        let path = Path::new("spec");
        let path = path.child("cidrs");
        let (new, old) = (cidrs(self), cidrs(old));
        let extended = new.len() == 2 && old.len() == 1;
        if new.len() != old.len() && !extended {
            return errors.invalid(path, new, IMMUTABLE);
        }
        for (i, (new, _)) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new != old) {
            errors.invalid(path.index(i), new, IMMUTABLE);
        }
    }

    fn columns() -> Vec<Column> {
        table::columns(&[table::narrow("CIDRs", "string", "The ranges, one for each address family.")])
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        table::cells(&self.metadata, now, vec![json!(cidrs(self).join(","))])
    }
}

pub fn cidrs(range: &ServiceCIDR) -> &[String] {
    range.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing;

    use super::*;

    fn of(cidrs: &[&str]) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"cidrs": cidrs}})
    }

    #[test]
    fn one_range_for_each_family() {
        testing::invalid::<ServiceCIDR>(&[
            (json!({}), "spec.cidrs", "Required value: at least one CIDR required"),
            (
                of(&["10.0.0.0/8", "11.0.0.0/8"]),
                "spec.cidrs",
                "Invalid value: [\"10.0.0.0/8\",\"11.0.0.0/8\"]: may specify no more than one IP for each IP family",
            ),
            (
                of(&["a", "b", "c"]),
                "spec.cidrs",
                "Invalid value: {\"CIDRs\":[\"a\",\"b\",\"c\"]}: may only hold up to 2",
            ),
            (of(&["10.0.0.1/8"]), "spec.cidrs[0]", "Invalid value: \"10.0.0.1/8\": must not have bits set"),
            (of(&["FD00::/64"]), "spec.cidrs[0]", "Invalid value: \"FD00::/64\": must be in canonical form"),
        ]);
        testing::valid::<ServiceCIDR>(&[of(&["10.0.0.0/8"]), of(&["10.0.0.0/8", "fd00::/64"])]);
        testing::updates::<ServiceCIDR>(&[
            (of(&["10.0.0.0/8"]), of(&["10.0.0.0/8", "fd00::/64"]), "", ""),
            (
                of(&["10.0.0.0/8"]),
                of(&["11.0.0.0/8"]),
                "spec.cidrs[0]",
                "Invalid value: \"11.0.0.0/8\": field is",
            ),
            (
                of(&["10.0.0.0/8", "fd00::/64"]),
                of(&["10.0.0.0/8"]),
                "spec.cidrs",
                "Invalid value: [\"10.0.0.0/8\"]: field is immutable",
            ),
        ]);
        assert_eq!(
            testing::cells::<ServiceCIDR>(of(&["10.0.0.0/8", "fd00::/64"])),
            ["a", "10.0.0.0/8,fd00::/64", "<unknown>"]
        );
    }
}
