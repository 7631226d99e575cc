use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use tracing::debug;

use crate::{Object, ObjectName, WriteError, Writer};

/// How many recent events are remembered for counting.
const RECENT_MAX: usize = 4096;

/// What kind of news an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things go as they should.
    Normal,
    /// Somebody should look.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// The object an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `Pod`.
    pub kind: String,
    /// Namespace and name.
    pub name: ObjectName,
    /// Its uid.
    pub uid: String,
}

impl About {
    /// That object.
    pub fn object<K: Object>(object: &K) -> Self {
        Self {
            api_version: K::API_VERSION.to_owned(),
            kind: K::KIND.to_owned(),
            name: object.object_name(),
            uid: object.uid().to_owned(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    about: About,
    kind: &'static str,
    reason: String,
    message: String,
    component: String,
}

/// Writes events. The same news about the same object is one event whose count grows.
#[derive(Clone)]
pub struct Recorder {
    writer: Writer,
    component: String,
    host: Option<String>,
    recent: Arc<Mutex<HashMap<Key, ObjectName>>>,
}

impl Recorder {
    /// A recorder that speaks as `component` (`default-scheduler`, `kubelet`).
    pub fn new(writer: Writer, component: impl Into<String>) -> Self {
        Self {
            writer,
            component: component.into(),
            host: None,
            recent: Arc::default(),
        }
    }

    /// The same recorder (and memory), speaking as another component.
    pub fn speaking_as(&self, component: &str, host: Option<&str>) -> Self {
        Self {
            component: component.to_owned(),
            host: host.map(str::to_owned),
            ..self.clone()
        }
    }

    /// Records an event. An event that cannot be written is dropped: it is news, not state.
    pub async fn record(
        &self,
        about: &About,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let key = Key {
            about: about.clone(),
            kind: event_type.as_str(),
            reason: reason.to_owned(),
            message: message.into(),
            component: self.component.clone(),
        };
        if let Err(cause) = self.write(&key).await {
            debug!(object = %about.name, reason, %cause, "event not written");
        }
    }

    async fn write(&self, key: &Key) -> Result<(), WriteError> {
        let now = Time(Timestamp::now());
        let known = self.recent().get(key).cloned();
        if let Some(name) = known {
            let counted = self
                .writer
                .update::<Event>(&name, None, |event| {
                    event.count = Some(event.count.unwrap_or(1).saturating_add(1));
                    event.last_timestamp = Some(now.clone());
                })
                .await;
            match counted {
                Err(WriteError::Missing(_)) => {}
                other => return other.map(|_| ()),
            }
        }
        let written = self.writer.create(self.event(key, now)).await?;
        let mut recent = self.recent();
        if recent.len() >= RECENT_MAX {
            recent.clear();
        }
        recent.insert(key.clone(), written.object.object_name());
        Ok(())
    }

    fn event(&self, key: &Key, now: Time) -> Event {
        let about = &key.about;
        // Events about cluster-scoped objects live in `default`, as upstream's.
        let namespace = about.name.namespace().unwrap_or("default");
        let serial = Timestamp::now().as_nanosecond();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{serial:x}", about.name.name)),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(about.api_version.clone()),
                kind: Some(about.kind.clone()),
                namespace: about.name.namespace().map(str::to_owned),
                name: Some(about.name.name.clone()),
                uid: Some(about.uid.clone()),
                ..ObjectReference::default()
            },
            reason: Some(key.reason.clone()),
            message: Some(key.message.clone()),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: self.host.clone(),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone().unwrap_or_default()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            type_: Some(key.kind.to_owned()),
            ..Event::default()
        }
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, HashMap<Key, ObjectName>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
