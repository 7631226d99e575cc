//! The way every write takes: admission, then one transaction on the condition that nothing it was
//! based on has changed.

use fairlead_api::{
    claims, object,
    resource::Resource,
    status::{FieldError, Status},
};
use fairlead_store::{CommitError, Entry, Expect, Op, Snapshot, Transaction};
use http::StatusCode;
use rand::RngExt;
use serde_json::{Value, json};

use crate::{
    api::{Api, unavailable},
    metadata, namespaces, pods,
    request::Request,
    response::{self, Presentation, Response},
    services,
    subject::Subject,
};

/// How often a write that lost a race is tried again before the client is told.
const ATTEMPTS_MAX: usize = 16;

/// What generated names end in: no vowels and nothing that looks like another character.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// A generated name fits a DNS label.
const GENERATE_NAME_LENGTH_MAX: usize = 63 - SUFFIX_LENGTH;

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but `status` where that is a subresource.
    Whole,
    /// `status` alone.
    Status,
    /// A namespace's `spec.finalizers` alone.
    Finalize,
    /// What the server itself changes (binding): it is not held against the rules for clients.
    Binding,
}

/// A change somebody wants to make to an object.
pub(crate) struct Proposal {
    /// The object as it should be, normalised.
    pub(crate) value: Value,
    /// The `resourceVersion` the client has seen, if it insists on it.
    pub(crate) seen: Option<String>,
    pub(crate) warnings: Vec<String>,
}

/// What became of a write.
pub(crate) struct Written {
    pub(crate) outcome: Outcome,
    pub(crate) warnings: Vec<String>,
}

/// The object after a write.
pub(crate) enum Outcome {
    /// As the store has it now.
    Stored(Entry),
    /// As it would have been: a dry run.
    Unstored(Value),
    /// It is gone; this is what it was.
    Removed(Value),
}

impl Written {
    pub(crate) fn value(&self) -> Result<Value, Status> {
        match &self.outcome {
            Outcome::Stored(entry) => response::decode(&entry.value),
            Outcome::Unstored(value) | Outcome::Removed(value) => Ok(value.clone()),
        }
    }

    pub(crate) fn respond(
        self,
        presentation: Presentation,
        code: StatusCode,
        resource: &'static Resource,
    ) -> Result<Response, Status> {
        let response = match self.outcome {
            Outcome::Stored(entry) => presentation.stored(code, resource, &entry.value)?,
            Outcome::Unstored(value) | Outcome::Removed(value) => {
                presentation.object(code, resource, value)?
            }
        };
        Ok(response::with_warnings(response, &self.warnings))
    }
}

/// Whether a request only asks what would happen (`dryRun=All`).
pub(crate) fn is_dry_run(request: &Request) -> Result<bool, Status> {
    match request.query.get("dryRun") {
        None => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(Status::bad_request(format!(
            "dryRun: Unsupported value: {other:?}: supported values: \"All\""
        ))),
    }
}

/// Creates an object.
pub(crate) async fn create(
    api: &Api,
    resource: &'static Resource,
    namespace: Option<&str>,
    object: Value,
    dry_run: bool,
) -> Result<Outcome, Status> {
    let generated = metadata::name(&object).is_empty();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut object = object.clone();
        name_new(resource, namespace, &mut object)?;
        let name = metadata::name(&object).to_owned();
        let subject = Subject {
            resource,
            namespace,
            name: &name,
        };
        let snapshot = api.latest().await?;
        let mut transaction = Transaction::default();
        if let Some(namespace) = namespace {
            let home = namespaces::admit(&snapshot, namespace, resource, &name)?;
            transaction.checks.push(home);
        }
        if !generated && snapshot.get(&subject.key()).is_some() {
            return Err(Status::already_exists(resource, &name));
        }
        admit_new(&subject, &mut object)?;
        let allocated = if subject.is_core("Service") {
            services::allocate(
                &snapshot,
                &api.service_addresses,
                &subject,
                None,
                &mut object,
            )?
        } else {
            Vec::new()
        };
        if dry_run {
            return Ok(Outcome::Unstored(object));
        }
        let encoded = object::encode(resource, &object);
        transaction.ops.push(Op::Put {
            key: subject.key(),
            expect: Expect::Absent,
            value: encoded.bytes,
            index: encoded.index,
        });
        transaction.ops.extend(allocated);
        match api.store.commit(transaction).await {
            Ok(committed) => return Ok(Outcome::Stored(first_entry(committed.entries))),
            Err(CommitError::Conflict { key, .. }) if key == subject.key() && !generated => {
                return Err(Status::already_exists(resource, &name));
            }
            // The namespace changed, a claim was taken, or a generated name exists: look again.
            Err(CommitError::Conflict { .. }) if attempt < ATTEMPTS_MAX => {}
            Err(CommitError::Conflict { .. }) => {
                return Err(Status::timeout(format!(
                    "cannot create {} {name:?}: too many writers at once",
                    resource.qualified_plural()
                )));
            }
            Err(error) => return Err(unavailable(error)),
        }
    }
}

/// Changes an object: `propose` makes the new one out of the current one, again whenever somebody
/// else was faster.
pub(crate) async fn modify(
    api: &Api,
    subject: &Subject<'_>,
    part: Part,
    dry_run: bool,
    mut propose: impl FnMut(&Value) -> Result<Proposal, Status>,
) -> Result<Written, Status> {
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = api.latest().await?;
        let entry = snapshot
            .get(&subject.key())
            .ok_or_else(|| subject.not_found())?;
        let current = response::decode(&entry.value)?;
        let Proposal {
            value,
            seen,
            mut warnings,
        } = propose(&current)?;
        if seen
            .as_ref()
            .is_some_and(|seen| *seen != entry.revision.to_string())
        {
            return Err(subject.modified());
        }
        check_uid(subject, &current, &value)?;
        let mut next = admit_change(subject, part, &current, value)?;
        if part == Part::Whole {
            warnings.extend((subject.resource.warnings)(&next));
        }
        let mut ops = if subject.is_core("Service") {
            let range = &api.service_addresses;
            services::allocate(&snapshot, range, subject, Some(&current), &mut next)?
        } else {
            Vec::new()
        };
        let written = |outcome| Written { outcome, warnings };
        if may_go(subject, &next) {
            if dry_run {
                return Ok(written(Outcome::Removed(next)));
            }
            match remove(api, subject, entry, &current).await? {
                Race::Won(_) => return Ok(written(Outcome::Removed(next))),
                Race::Lost => continue,
            }
        }
        if next == current {
            return Ok(written(Outcome::Stored(entry.clone())));
        }
        if dry_run {
            return Ok(written(Outcome::Unstored(next)));
        }
        ops.insert(0, put(subject, entry, &next));
        match commit(api, ops).await? {
            Race::Won(entry) => return Ok(written(Outcome::Stored(entry))),
            Race::Lost if seen.is_some() && !is_current(api, subject, entry).await? => {
                return Err(subject.modified());
            }
            Race::Lost => {}
        }
    }
    Err(subject.modified())
}

/// Whether a transaction met the state it was based on.
pub(crate) enum Race<T> {
    Won(T),
    Lost,
}

/// Replaces an entry on the condition that it is still the current one.
pub(crate) fn put(subject: &Subject<'_>, entry: &Entry, next: &Value) -> Op {
    let encoded = object::encode(subject.resource, next);
    Op::Put {
        key: entry.key.clone(),
        expect: Expect::Revision(entry.revision),
        value: encoded.bytes,
        index: encoded.index,
    }
}

/// Commits operations; the entry is the first one's.
pub(crate) async fn commit(api: &Api, ops: Vec<Op>) -> Result<Race<Entry>, Status> {
    let transaction = Transaction {
        checks: Vec::new(),
        ops,
    };
    match api.store.commit(transaction).await {
        Ok(committed) => Ok(Race::Won(first_entry(committed.entries))),
        Err(CommitError::Conflict { .. }) => Ok(Race::Lost),
        Err(error) => Err(unavailable(error)),
    }
}

/// Removes an entry, with what a Service holds, on the condition that it is still the current one.
pub(crate) async fn remove(
    api: &Api,
    subject: &Subject<'_>,
    entry: &Entry,
    current: &Value,
) -> Result<Race<Entry>, Status> {
    let mut ops = vec![Op::Delete {
        key: entry.key.clone(),
        expect: Expect::Revision(entry.revision),
    }];
    if subject.is_core("Service") {
        ops.extend(services::release(current));
    }
    commit(api, ops).await
}

async fn is_current(api: &Api, subject: &Subject<'_>, entry: &Entry) -> Result<bool, Status> {
    let snapshot: Snapshot = api.latest().await?;
    Ok(snapshot
        .get(&subject.key())
        .is_some_and(|now| now.revision == entry.revision))
}

fn first_entry(entries: Vec<Option<Entry>>) -> Entry {
    let entry = entries.into_iter().next().flatten();
    let entry = entry.expect("the first operation writes or deletes an entry that exists");
    debug_assert!(!claims::Claim::is_key(entry.key.as_str()));
    entry
}

/// Gives a new object its namespace and, when it only has a `generateName`, its name.
fn name_new(
    resource: &Resource,
    namespace: Option<&str>,
    object: &mut Value,
) -> Result<(), Status> {
    check_namespace(object, namespace)?;
    metadata::set(object, "namespace", namespace.map(Value::from));
    if !metadata::name(object).is_empty() {
        return Ok(());
    }
    let Some(base) = metadata::text(object, "generateName") else {
        let missing = FieldError::required("metadata.name", "name or generateName is required");
        return Err(Status::invalid(resource, "", vec![missing]));
    };
    let mut end = base.len().min(GENERATE_NAME_LENGTH_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut random = rand::rng();
    name.extend(
        (0..SUFFIX_LENGTH)
            .map(|_| char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())])),
    );
    metadata::set(object, "name", Some(name.into()));
    Ok(())
}

/// The namespace in a body must be that of the path.
pub(crate) fn check_namespace(object: &Value, namespace: Option<&str>) -> Result<(), Status> {
    match (metadata::text(object, "namespace"), namespace) {
        (Some(found), Some(expected)) if found != expected => Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request \
             ({found} != {expected})"
        ))),
        _ => Ok(()),
    }
}

/// Completes and checks a new object.
fn admit_new(subject: &Subject<'_>, object: &mut Value) -> Result<(), Status> {
    if metadata::text(object, "resourceVersion").is_some() {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    for field in [
        "selfLink",
        "managedFields",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        metadata::set(object, field, None);
    }
    let uid = uuid::Uuid::new_v4().to_string();
    metadata::set(object, "uid", Some(uid.into()));
    let now = metadata::timestamp(jiff::Timestamp::now());
    metadata::set(object, "creationTimestamp", Some(now.into()));
    let generation = counts_generations(subject).then_some(json!(1));
    metadata::set(object, "generation", generation);
    // Agents register their node with its status in one request.
    if subject.resource.status
        && !subject.is_core("Node")
        && let Some(object) = object.as_object_mut()
    {
        object.shift_remove("status");
    }
    (subject.resource.default)(object);
    if subject.is_core("Namespace") {
        namespaces::prepare(object);
    } else if subject.is_core("Pod") {
        pods::prepare(object);
    }
    let errors = (subject.resource.validate)(object, None);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(subject.resource, subject.name, errors))
    }
}

/// Whether changes of an object's spec are counted: as upstream, not where nothing observes them.
fn counts_generations(subject: &Subject<'_>) -> bool {
    let unobserved = ["Namespace", "Node", "Service"];
    subject.resource.status && !unobserved.iter().any(|kind| subject.is_core(kind))
}

/// What `current` becomes when a client proposes `proposed` for `part` of it.
fn admit_change(
    subject: &Subject<'_>,
    part: Part,
    current: &Value,
    proposed: Value,
) -> Result<Value, Status> {
    let mut next = match part {
        Part::Whole => {
            let mut next = proposed;
            if subject.resource.status {
                copy_member(current, &mut next, "status");
            }
            next
        }
        Part::Status => {
            let mut next = current.clone();
            copy_member(&proposed, &mut next, "status");
            next
        }
        Part::Finalize => {
            let mut next = current.clone();
            let finalizers = proposed.pointer("/spec/finalizers").cloned();
            metadata::member_mut(&mut next, "spec").insert(
                "finalizers".to_owned(),
                finalizers.unwrap_or_else(|| json!([])),
            );
            next
        }
        Part::Binding => proposed,
    };
    keep_system_metadata(current, &mut next);
    if subject.is_core("Namespace") && part == Part::Whole {
        let finalizers = current.pointer("/spec/finalizers").cloned();
        metadata::member_mut(&mut next, "spec").insert(
            "finalizers".to_owned(),
            finalizers.unwrap_or_else(|| json!([])),
        );
    }
    if subject.is_core("Service") {
        services::inherit(current, &mut next);
    }
    if part == Part::Binding {
        return Ok(next);
    }
    (subject.resource.default)(&mut next);
    if let Some(generation) = current
        .pointer("/metadata/generation")
        .and_then(Value::as_u64)
        && spec_differs(current, &next)
    {
        metadata::set(&mut next, "generation", Some((generation + 1).into()));
    }
    let mut errors = new_finalizers(current, &next);
    errors.extend((subject.resource.validate)(&next, Some(current)));
    if errors.is_empty() {
        Ok(next)
    } else {
        Err(Status::invalid(subject.resource, subject.name, errors))
    }
}

/// Fields of `metadata` that only the server writes stay as they are.
fn keep_system_metadata(current: &Value, next: &mut Value) {
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        let kept = current
            .get("metadata")
            .and_then(|metadata| metadata.get(field));
        metadata::set(next, field, kept.cloned());
    }
    for field in ["selfLink", "managedFields"] {
        metadata::set(next, field, None);
    }
    for field in ["kind", "apiVersion"] {
        copy_member(current, next, field);
    }
}

fn copy_member(from: &Value, to: &mut Value, field: &str) {
    let Some(to) = to.as_object_mut() else {
        return;
    };
    match from.get(field) {
        Some(value) => {
            to.insert(field.to_owned(), value.clone());
        }
        None => {
            to.shift_remove(field);
        }
    }
}

/// Whether anything but `metadata` and `status` differs.
fn spec_differs(current: &Value, next: &Value) -> bool {
    let own = |value: &Value| {
        let mut members = value.as_object().cloned().unwrap_or_default();
        members.shift_remove("metadata");
        members.shift_remove("status");
        members
    };
    own(current) != own(next)
}

/// An object that is going away takes no new finalizers, or it might never go.
fn new_finalizers(current: &Value, next: &Value) -> Vec<FieldError> {
    if !metadata::is_terminating(current) {
        return Vec::new();
    }
    let old = metadata::finalizers(current);
    let added: Vec<_> = metadata::finalizers(next)
        .into_iter()
        .filter(|finalizer| !old.contains(finalizer))
        .map(|finalizer| format!("{finalizer:?}"))
        .collect();
    if added.is_empty() {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        "metadata.finalizers",
        &format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        ),
    )]
}

/// Whether an object whose deletion has begun has nothing left to wait for.
pub(crate) fn may_go(subject: &Subject<'_>, object: &Value) -> bool {
    let grace = object
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    metadata::is_terminating(object)
        && metadata::finalizers(object).is_empty()
        && grace == 0
        && (!subject.is_core("Namespace") || namespaces::is_finalized(object))
}

fn check_uid(subject: &Subject<'_>, current: &Value, proposed: &Value) -> Result<(), Status> {
    let current = metadata::text(current, "uid");
    match metadata::text(proposed, "uid") {
        Some(uid) if Some(uid) != current => Err(Status::conflict(
            subject.resource,
            subject.name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                current.unwrap_or_default()
            ),
        )),
        _ => Ok(()),
    }
}
