//! The list of scheduler plug-ins: one file each, in the order filters run (the cheapest first).

mod balanced_allocation;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use crate::framework::Plugin;

/// Every plug-in. A name that stands twice is a fault of the list.
pub fn all() -> Vec<Box<dyn Plugin>> {
    let list: Vec<Box<dyn Plugin>> = vec![
        Box::new(node_unschedulable::NodeUnschedulable),
        Box::new(node_name::NodeName),
        Box::new(taint_toleration::TaintToleration),
        Box::new(node_affinity::NodeAffinity),
        Box::new(node_ports::NodePorts),
        Box::new(node_resources_fit::NodeResourcesFit),
        Box::new(volume_restrictions::VolumeRestrictions),
        Box::new(volume_binding::VolumeBinding),
        Box::new(volume_zone::VolumeZone),
        Box::new(node_volume_limits::NodeVolumeLimits),
        Box::new(balanced_allocation::BalancedAllocation),
        Box::new(pod_topology_spread::PodTopologySpread),
        Box::new(inter_pod_affinity::InterPodAffinity),
    ];
    for (at, plugin) in list.iter().enumerate() {
        let twice = list[..at].iter().any(|earlier| earlier.name() == plugin.name());
        assert!(!twice, "the scheduler plug-in {} is listed twice", plugin.name());
    }
    list
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_plugin_has_a_name_of_its_own() {
        let names: Vec<_> = super::all().iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), 13, "{names:?}");
    }
}
