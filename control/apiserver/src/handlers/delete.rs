use fairlead_api::status::Status;
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    api::Api,
    body, metadata, namespaces, pods,
    request::Request,
    response::{self, Presentation, Response},
    subject::Subject,
    write::{self, Outcome, Race, put},
};

/// Keeps an owner until its dependents are gone; the garbage collector removes it.
const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an owner until its dependents have forgotten it.
const ORPHAN: &str = "orphan";

/// How often a deletion that lost a race is tried again.
const ATTEMPTS_MAX: usize = 16;

/// What becomes of the objects this one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `DeleteOptions`, from the body and the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    grace_seconds: Option<i64>,
    propagation: Option<Propagation>,
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: bool,
}

impl DeleteOptions {
    pub(crate) fn of(request: &Request) -> Result<Self, Status> {
        let mut options = match body::options(request, "DeleteOptions")? {
            Some(body) => Self::read(&body)?,
            None => Self::default(),
        };
        options.dry_run |= write::is_dry_run(request)?;
        if let Some(text) = request.query.get("gracePeriodSeconds") {
            let seconds = text.parse().map_err(|_| {
                Status::bad_request(format!("gracePeriodSeconds: invalid number {text:?}"))
            })?;
            options.grace_seconds = Some(seconds);
        }
        if let Some(text) = request.query.get("propagationPolicy") {
            options.propagation = Some(Propagation::parse(text)?);
        }
        if options.propagation.is_none()
            && let Some(orphan) = request.query.flag("orphanDependents")?
        {
            options.propagation = Some(Propagation::of_orphan_dependents(orphan));
        }
        Ok(options)
    }

    /// Reads a `DeleteOptions` object.
    pub(crate) fn read(body: &Value) -> Result<Self, Status> {
        let text = |pointer| {
            body.pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let propagation = match text("/propagationPolicy") {
            Some(policy) => Some(Propagation::parse(&policy)?),
            None => body
                .get("orphanDependents")
                .and_then(Value::as_bool)
                .map(Propagation::of_orphan_dependents),
        };
        let dry_run = match body.get("dryRun").and_then(Value::as_array) {
            None => false,
            Some(stages) if stages.iter().all(|stage| stage == "All") => !stages.is_empty(),
            Some(_) => {
                return Err(Status::bad_request(
                    "dryRun: Unsupported value: supported values: \"All\"",
                ));
            }
        };
        Ok(Self {
            grace_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            propagation,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run,
        })
    }

    /// The same for every object of a collection: preconditions are about one.
    pub(crate) fn without_preconditions(self) -> Self {
        Self {
            uid: None,
            resource_version: None,
            ..self
        }
    }

    fn check(&self, subject: &Subject<'_>, current: &Value) -> Result<(), Status> {
        let checks = [
            ("UID", "uid", &self.uid),
            ("ResourceVersion", "resourceVersion", &self.resource_version),
        ];
        for (title, field, expected) in checks {
            let found = metadata::text(current, field).unwrap_or_default();
            if let Some(expected) = expected
                && expected != found
            {
                return Err(Status::conflict(
                    subject.resource,
                    subject.name,
                    &format!(
                        "Precondition failed: {title} in precondition: {expected}, \
                         {title} in object meta: {found}"
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Propagation {
    fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => Err(Status::bad_request(format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \
                 \"Background\", \"Foreground\", \"Orphan\""
            ))),
        }
    }

    /// The field that was there before `propagationPolicy`.
    fn of_orphan_dependents(orphan: bool) -> Self {
        if orphan {
            Self::Orphan
        } else {
            Self::Background
        }
    }
}

/// Deletes one object, or begins to.
pub(crate) async fn delete(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
) -> Result<Response, Status> {
    let presentation = Presentation::of(request)?;
    let options = DeleteOptions::of(request)?;
    match remove(api, &subject, &options).await? {
        Outcome::Removed(object) => {
            let mut details = json!({
                "name": subject.name,
                "kind": subject.resource.plural,
                "uid": metadata::text(&object, "uid"),
            });
            if !subject.resource.group.is_empty() {
                details["group"] = subject.resource.group.into();
            }
            Ok(response::success(StatusCode::OK, details))
        }
        Outcome::Stored(entry) => {
            presentation.stored(StatusCode::OK, subject.resource, &entry.value)
        }
        Outcome::Unstored(object) => presentation.object(StatusCode::OK, subject.resource, object),
    }
}

/// What a deletion does to an object now.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Nothing has to be waited for.
    Remove,
    /// It goes when its grace is over and its finalizers are gone.
    Mark(Value),
    /// It is going already.
    Leave,
}

/// Deletes an object, or marks it for those that must act first.
pub(crate) async fn remove(
    api: &Api,
    subject: &Subject<'_>,
    options: &DeleteOptions,
) -> Result<Outcome, Status> {
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = api.latest().await?;
        let entry = snapshot
            .get(&subject.key())
            .ok_or_else(|| subject.not_found())?;
        let current = response::decode(&entry.value)?;
        options.check(subject, &current)?;
        let race = match plan(subject, &current, options, jiff::Timestamp::now()) {
            Plan::Leave => return Ok(Outcome::Stored(entry.clone())),
            Plan::Remove if options.dry_run => return Ok(Outcome::Removed(current)),
            Plan::Mark(next) if options.dry_run => return Ok(Outcome::Unstored(next)),
            Plan::Remove => match write::remove(api, subject, entry, &current).await? {
                Race::Won(_) => return Ok(Outcome::Removed(current)),
                Race::Lost => Race::Lost,
            },
            Plan::Mark(next) => write::commit(api, vec![put(subject, entry, &next)]).await?,
        };
        if let Race::Won(entry) = race {
            return Ok(Outcome::Stored(entry));
        }
    }
    Err(subject.modified())
}

fn plan(
    subject: &Subject<'_>,
    current: &Value,
    options: &DeleteOptions,
    now: jiff::Timestamp,
) -> Plan {
    let mut next = current.clone();
    set_propagation(&mut next, options.propagation);
    let grace = if subject.is_core("Pod") {
        pods::grace_seconds(current, options.grace_seconds)
    } else {
        0
    };
    let left = current
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    // A second deletion may shorten the grace of the first, never lengthen it.
    let begins = !metadata::is_terminating(current);
    if begins || left.is_some_and(|left| grace < left) {
        let deadline = now
            .checked_add(jiff::SignedDuration::from_secs(grace))
            .unwrap_or(jiff::Timestamp::MAX);
        let deadline = metadata::timestamp(deadline);
        metadata::set(&mut next, "deletionTimestamp", Some(deadline.into()));
        metadata::set(&mut next, "deletionGracePeriodSeconds", Some(grace.into()));
    }
    if begins {
        if let Some(generation) = next.pointer("/metadata/generation").and_then(Value::as_u64) {
            metadata::set(&mut next, "generation", Some((generation + 1).into()));
        }
        if subject.is_core("Namespace") {
            namespaces::terminate(&mut next);
        }
    }
    if write::may_go(subject, &next) {
        Plan::Remove
    } else if next == *current {
        Plan::Leave
    } else {
        Plan::Mark(next)
    }
}

/// Records what is to become of dependents, where the garbage collector looks for it.
fn set_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else {
        return;
    };
    let own = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let kept: Vec<String> = metadata::finalizers(object)
        .into_iter()
        .filter(|&finalizer| finalizer != FOREGROUND && finalizer != ORPHAN)
        .chain(own)
        .map(str::to_owned)
        .collect();
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    metadata::set_finalizers(object, &kept);
}

#[cfg(test)]
mod tests {
    use fairlead_api::resource::{CONFIG_MAP, NAMESPACE, POD};

    use super::*;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn subject(resource: &'static fairlead_api::resource::Resource) -> Subject<'static> {
        Subject {
            resource,
            namespace: Some("a"),
            name: "x",
        }
    }

    fn marked(plan: Plan) -> Value {
        match plan {
            Plan::Mark(value) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn object_nobody_waits_for_is_removed_at_once() {
        let object = json!({"metadata": {"name": "x"}});
        let options = DeleteOptions::default();
        assert_eq!(
            plan(&subject(&CONFIG_MAP), &object, &options, NOW),
            Plan::Remove
        );
    }

    #[test]
    fn finalizer_holds_an_object_and_propagation_adds_its_own() {
        let object = json!({"metadata": {"name": "x", "finalizers": ["a/b"]}});
        let options = DeleteOptions::read(&json!({"propagationPolicy": "Foreground"})).unwrap();
        let next = marked(plan(&subject(&CONFIG_MAP), &object, &options, NOW));
        assert_eq!(next["metadata"]["finalizers"], json!(["a/b", FOREGROUND]));
        assert_eq!(
            next["metadata"]["deletionTimestamp"],
            "1970-01-01T00:00:00Z"
        );
        assert_eq!(
            plan(&subject(&CONFIG_MAP), &next, &options, NOW),
            Plan::Leave
        );
        let options = DeleteOptions::read(&json!({"propagationPolicy": "Background"})).unwrap();
        let next = marked(plan(&subject(&CONFIG_MAP), &next, &options, NOW));
        assert_eq!(next["metadata"]["finalizers"], json!(["a/b"]));
    }

    #[test]
    fn running_pod_gets_its_grace_and_a_second_deletion_only_shortens_it() {
        let pod = json!({"metadata": {"name": "x"}, "spec": {"nodeName": "n"}});
        let asking =
            |seconds: i64| DeleteOptions::read(&json!({"gracePeriodSeconds": seconds})).unwrap();
        let next = marked(plan(&subject(&POD), &pod, &DeleteOptions::default(), NOW));
        assert_eq!(next["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(
            next["metadata"]["deletionTimestamp"],
            "1970-01-01T00:00:30Z"
        );
        assert_eq!(plan(&subject(&POD), &next, &asking(60), NOW), Plan::Leave);
        let shorter = marked(plan(&subject(&POD), &next, &asking(5), NOW));
        assert_eq!(
            shorter["metadata"]["deletionTimestamp"],
            "1970-01-01T00:00:05Z"
        );
        assert_eq!(plan(&subject(&POD), &next, &asking(0), NOW), Plan::Remove);
    }

    #[test]
    fn namespace_waits_until_it_is_emptied() {
        let namespace = json!({"metadata": {"name": "x"}, "spec": {"finalizers": ["kubernetes"]}});
        let options = DeleteOptions::default();
        let next = marked(plan(&subject(&NAMESPACE), &namespace, &options, NOW));
        assert_eq!(next["status"]["phase"], "Terminating");
    }

    #[test]
    fn precondition_that_fails_is_a_conflict() {
        let object = json!({"metadata": {"name": "x", "uid": "1"}});
        let options = DeleteOptions::read(&json!({"preconditions": {"uid": "2"}})).unwrap();
        let status = options.check(&subject(&CONFIG_MAP), &object).unwrap_err();
        assert_eq!(status.code, 409);
        assert!(
            status
                .message
                .ends_with("Precondition failed: UID in precondition: 2, UID in object meta: 1")
        );
    }
}
