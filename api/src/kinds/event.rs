use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use super::columns::{NAME, column, number, text, wide};
use super::validation::metadata;
use super::{PLAIN, field, through};
use crate::names;
use crate::resource::{Column, Resource};
use crate::status::FieldError;
use crate::table::age;

/// Something that happened to an object, told to people.
pub static EVENT: Resource = Resource {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    selectable_fields: &[
        field("involvedObject.kind", "/involvedObject/kind"),
        field("involvedObject.namespace", "/involvedObject/namespace"),
        field("involvedObject.name", "/involvedObject/name"),
        field("involvedObject.uid", "/involvedObject/uid"),
        field("involvedObject.apiVersion", "/involvedObject/apiVersion"),
        field(
            "involvedObject.resourceVersion",
            "/involvedObject/resourceVersion",
        ),
        field("involvedObject.fieldPath", "/involvedObject/fieldPath"),
        field("reason", "/reason"),
        field("reportingComponent", "/reportingComponent"),
        field("source", "/source/component"),
        field("type", "/type"),
    ],
    columns: COLUMNS,
    type_name: "core.v1.Event",
    normalize: through::<Event>,
    validate,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    column("Last Seen", |event, now| last_seen(event, now).into()),
    column("Type", |event, _| text(event, "/type").into()),
    column("Reason", |event, _| text(event, "/reason").into()),
    column("Object", |event, _| {
        let kind = text(event, "/involvedObject/kind").to_lowercase();
        format!("{kind}/{}", text(event, "/involvedObject/name")).into()
    }),
    wide("Subobject", |event, _| {
        text(event, "/involvedObject/fieldPath").into()
    }),
    wide("Source", |event, _| source(event).into()),
    column("Message", |event, _| text(event, "/message").trim().into()),
    wide("First Seen", |event, now| first_seen(event, now).into()),
    wide("Count", |event, _| {
        let counts = [number(event, "/series/count"), number(event, "/count"), 1];
        counts.into_iter().find(|count| *count != 0).into()
    }),
    Column {
        priority: 1,
        ..NAME
    },
];

fn first_seen(event: &Value, now: Timestamp) -> String {
    let first = event.get("firstTimestamp").filter(|time| !time.is_null());
    age(first.or(event.get("eventTime")), now)
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    let observed = event.pointer("/series/lastObservedTime");
    let last = observed.or(event.get("lastTimestamp"));
    match last.filter(|time| !time.is_null()) {
        Some(time) => age(Some(time), now),
        None => first_seen(event, now),
    }
}

fn source(event: &Value) -> String {
    let part = |old: &str, new: &str| match text(event, old) {
        "" => text(event, new).to_owned(),
        told => told.to_owned(),
    };
    let component = part("/source/component", "/reportingComponent");
    match part("/source/host", "/reportingInstance") {
        host if host.is_empty() => component,
        host => format!("{component}, {host}"),
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(new, old, names::dns_1123_subdomain);
    let about = text(new, "/involvedObject/namespace");
    let own = text(new, "/metadata/namespace");
    // Events about objects of the cluster scope are kept in the default namespace.
    if own != about && !(about.is_empty() && matches!(own, "default" | "kube-system")) {
        errors.push(FieldError::invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        ));
    }
    errors
}
