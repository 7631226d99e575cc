use std::{io, time::Duration};

use bytes::Bytes;
use fairlead_api::{NodeName, status::Status};
use futures::stream;
use serde_json::{Map, Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    api::Api,
    metadata,
    query::Query,
    request::Request,
    response::{self, Response},
    subject::Subject,
};

/// How long the node may take to say that it cannot: after that the answer is a stream, and its
/// failure can only cut it.
const FIRST_PIECE_WAIT: Duration = Duration::from_secs(1);

/// `pods/log`: what a container wrote, from the node that runs it.
pub(crate) async fn log(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
) -> Result<Response, Status> {
    let snapshot = api.latest().await?;
    let entry = snapshot
        .get(&subject.key())
        .ok_or_else(|| subject.not_found())?;
    let pod = response::decode(&entry.value)?;
    let previous = request.query.flag("previous")?.unwrap_or(false);
    let container = container(&pod, request.query.get("container"))?;
    if previous {
        has_predecessor(&pod, container)?;
    } else {
        has_started(&pod, container)?;
    }
    let node = pod
        .pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .filter(|node| !node.is_empty())
        .ok_or_else(|| {
            Status::bad_request(format!(
                "pod {} does not have a host assigned",
                subject.name
            ))
        })?;
    let wanted = wanted(&subject, &pod, container, &request.query)?;
    api.require_leader()?;
    let pieces = api.nodes.open(&NodeName::new(node), "logs", wanted).await?;
    relay("text/plain; charset=utf-8", pieces, api.stopping.clone()).await
}

/// Answers with what a node sends, until it ends, fails, or the server stops. What fails before
/// anything was sent is a `Status`.
pub(crate) async fn relay(
    content_type: &'static str,
    mut pieces: mpsc::Receiver<Result<Bytes, String>>,
    stopping: CancellationToken,
) -> Result<Response, Status> {
    let first = match timeout(FIRST_PIECE_WAIT, pieces.recv()).await {
        Ok(Some(Err(message))) => return Err(Status::bad_request(message)),
        Ok(Some(Ok(piece))) => Some(piece),
        Ok(None) => Some(Bytes::new()),
        Err(_elapsed) => None,
    };
    let rest = stream::unfold(
        (first, pieces, stopping),
        |(first, mut pieces, stopping)| async move {
            let piece = match first {
                Some(piece) => Ok(piece),
                None => tokio::select! {
                    piece = pieces.recv() => piece?.map_err(io::Error::other),
                    () = stopping.cancelled() => return None,
                },
            };
            Some((piece, (None, pieces, stopping)))
        },
    );
    Ok(response::stream(content_type, rest))
}

/// Names of all containers of a pod, the usual ones first.
fn containers(pod: &Value) -> impl Iterator<Item = &str> {
    ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .filter_map(|field| pod.get("spec")?.get(field)?.as_array())
        .flatten()
        .filter_map(|container| container.get("name")?.as_str())
}

/// The container that is meant.
fn container<'a>(pod: &'a Value, asked: Option<&str>) -> Result<&'a str, Status> {
    let name = metadata::name(pod);
    if let Some(asked) = asked {
        return containers(pod)
            .find(|container| *container == asked)
            .ok_or_else(|| {
                Status::bad_request(format!("container {asked} is not valid for pod {name}"))
            });
    }
    let own: Vec<&str> = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|container| container.get("name")?.as_str())
        .collect();
    match own.as_slice() {
        [only] => Ok(only),
        several => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            several.join(" ")
        ))),
    }
}

/// A container that waits for its first start has written nothing, and the reason is what its
/// reader wants to know.
fn has_started(pod: &Value, container: &str) -> Result<(), Status> {
    for status in statuses(pod, container) {
        let ran_before = status.pointer("/lastState/terminated").is_some();
        if let (Some(waiting), false) = (status.pointer("/state/waiting"), ran_before) {
            return Err(Status::bad_request(format!(
                "container {container:?} in pod {:?} is waiting to start: {}",
                metadata::name(pod),
                waiting["reason"].as_str().unwrap_or("unknown")
            )));
        }
    }
    Ok(())
}

/// A container that runs for the first time has no run before it.
fn has_predecessor(pod: &Value, container: &str) -> Result<(), Status> {
    let ran_before = |status: &Value| status.pointer("/lastState/terminated").is_some();
    if statuses(pod, container).any(ran_before) {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "previous terminated container {container:?} in pod {:?} not found",
        metadata::name(pod)
    )))
}

fn statuses<'a>(pod: &'a Value, container: &'a str) -> impl Iterator<Item = &'a Value> {
    [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ]
    .into_iter()
    .filter_map(|field| pod.get("status")?.get(field)?.as_array())
    .flatten()
    .filter(move |status| status["name"] == container)
}

/// The request as the node's agent reads it.
fn wanted(
    subject: &Subject<'_>,
    pod: &Value,
    container: &str,
    query: &Query,
) -> Result<Value, Status> {
    let mut wanted = Map::new();
    let mut put = |name: &str, value: Value| wanted.insert(name.to_owned(), value);
    put("namespace", subject.namespace.into());
    put("pod", subject.name.into());
    put("uid", json!(metadata::text(pod, "uid")));
    put("container", container.into());
    for name in ["follow", "timestamps", "previous"] {
        put(name, query.flag(name)?.unwrap_or(false).into());
    }
    for name in ["tailLines", "sinceSeconds", "limitBytes"] {
        if let Some(number) = query.number(name)? {
            put(name, number.into());
        }
    }
    if let Some(time) = query.get("sinceTime") {
        put("sinceTime", time.into());
    }
    Ok(Value::Object(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": {"containerStatuses": [
                {"name": "a", "state": {"running": {}}},
                {"name": "b", "state": {"waiting": {"reason": "ErrImagePull"}}},
            ]},
        })
    }

    #[test]
    fn container_must_be_named_when_there_are_several() {
        let pod = pod();
        let refused = container(&pod, None).unwrap_err();
        assert_eq!(
            refused.message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(container(&pod, Some("i")).unwrap(), "i");
        let refused = container(&pod, Some("x")).unwrap_err();
        assert_eq!(refused.message, "container x is not valid for pod p");
    }

    #[test]
    fn container_without_a_predecessor_has_no_previous_log() {
        let mut pod = pod();
        let refused = has_predecessor(&pod, "a").unwrap_err();
        assert_eq!(
            refused.message,
            "previous terminated container \"a\" in pod \"p\" not found"
        );
        pod["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {}});
        has_predecessor(&pod, "a").unwrap();
    }

    #[test]
    fn container_that_never_started_says_why() {
        has_started(&pod(), "a").unwrap();
        let refused = has_started(&pod(), "b").unwrap_err();
        assert_eq!(
            refused.message,
            "container \"b\" in pod \"p\" is waiting to start: ErrImagePull"
        );
    }
}
