//! Decides whether a volume is to be attached to a node, or to be taken from it.

use std::time::Duration;

/// How long a node that is not healthy may keep a volume that nobody wants there: upstream's figure.
pub const UNMOUNT_MAX: Duration = Duration::from_secs(6 * 60);

/// What is known of one volume on one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// A pod on the node uses it.
    pub wanted: bool,
    pub attachment: Attachment,
    /// Only one node at a time may have it.
    pub exclusive: bool,
    /// Another node has it, or is getting it.
    pub elsewhere: bool,
    /// The node says that it is mounted.
    pub in_use: bool,
    pub node_healthy: bool,
    /// The node is gone for good, by its taint or altogether.
    pub node_lost: bool,
    pub unwanted_for: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attachment {
    #[default]
    None,
    Present,
    Deleting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    Attach,
    /// It must leave the other node first.
    RefuseSecond,
    Detach,
    /// The node never said that it has unmounted it.
    ForceDetach,
    Wait(Duration),
}

pub fn plan(state: &State) -> Action {
    match (state.wanted, state.attachment) {
        (true, Attachment::None) if state.exclusive && state.elsewhere => Action::RefuseSecond,
        (true, Attachment::None) => Action::Attach,
        (true, _) | (false, Attachment::None | Attachment::Deleting) => Action::Nothing,
        (false, Attachment::Present) if !state.in_use => Action::Detach,
        (false, Attachment::Present) if state.node_lost => Action::ForceDetach,
        // It will say so when it has unmounted it.
        (false, Attachment::Present) if state.node_healthy => Action::Nothing,
        (false, Attachment::Present) => match UNMOUNT_MAX.checked_sub(state.unwanted_for) {
            Some(left) if !left.is_zero() => Action::Wait(left),
            _ => Action::ForceDetach,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_follow_their_pods() {
        use Attachment::{Deleting, None, Present};
        let wanted = State { wanted: true, ..State::default() };
        let unwanted = State { attachment: Present, in_use: true, node_healthy: true, ..State::default() };
        let minutes = |n: u64| Duration::from_secs(60 * n);
        for (what, state, want) in [
            ("new", wanted, Action::Attach),
            ("there", State { attachment: Present, ..wanted }, Action::Nothing),
            ("being taken away", State { attachment: Deleting, ..wanted }, Action::Nothing),
            ("shared", State { elsewhere: true, ..wanted }, Action::Attach),
            ("elsewhere", State { elsewhere: true, exclusive: true, ..wanted }, Action::RefuseSecond),
            ("never was", State { attachment: None, ..State::default() }, Action::Nothing),
            ("unmounted", State { in_use: false, ..unwanted }, Action::Detach),
            ("going", State { attachment: Deleting, ..unwanted }, Action::Nothing),
            ("still mounted", unwanted, Action::Nothing),
            ("out of service", State { node_lost: true, ..unwanted }, Action::ForceDetach),
            (
                "silent",
                State { node_healthy: false, unwanted_for: minutes(2), ..unwanted },
                Action::Wait(minutes(4)),
            ),
            (
                "silent for too long",
                State { node_healthy: false, unwanted_for: minutes(6), ..unwanted },
                Action::ForceDetach,
            ),
        ] {
            assert_eq!(plan(&state), want, "{what}");
        }
    }
}
