//! Members of `system:masters` may do everything.

use async_trait::async_trait;

use super::{Attributes, Authorizer, Decision};
use crate::authn::{Identity, MASTERS_GROUP};

pub struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn decide(&self, identity: &Identity, _attributes: &Attributes) -> Decision {
        Decision::allow_if(identity.in_group(MASTERS_GROUP))
    }
}
