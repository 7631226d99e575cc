use k8s_openapi::api::core::v1::Event;

use super::{PLAIN, field, through};
use crate::resource::Resource;

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
    type_name: "core.v1.Event",
    normalize: through::<Event>,
    ..PLAIN
};
