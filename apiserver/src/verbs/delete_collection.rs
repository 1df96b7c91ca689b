//! DELETE on a collection: every selected object by itself.

use coracle_client::{ApiError, ListOptions};

use super::delete::{self, Options};
use super::list;
use super::{Answer, Call};

/// Deletes what the selection lists, and answers with the list of it, as upstream.
pub async fn delete_collection(
    call: &Call,
    options: &Options,
    selection: ListOptions,
) -> Result<Answer, ApiError> {
    let listed = list::list(&call.api, &call.form, call.namespace.as_deref(), selection).await?;
    delete::warn_of_default(call, options);
    for object in &listed.objects {
        let namespace = Some(&*object.head.namespace).filter(|n| !n.is_empty());
        match delete::delete(&call.on(namespace, &object.head.name), options).await {
            Err(error) if error.is_not_found() => {}
            result => drop(result?),
        }
    }
    Ok(Answer { of_kind: false, ..Answer::ok(list::encode(&call.form, &listed)) })
}
