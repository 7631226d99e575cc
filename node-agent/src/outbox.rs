//! What the node has to tell the control plane, kept so that a new session can begin with all of
//! it: the latest of each thing, never a queue that grows while nobody listens.

use std::collections::{BTreeMap, VecDeque};

use fairlead_proto::node::{
    Acknowledgement, AgentMessage, Event, NodeStatus, PodGone, PodStatus, agent_message::Message,
};

/// Events kept while no session takes them; the oldest go first.
const EVENTS_MAX: usize = 256;

/// An event about the service called "namespace/name" or "namespace/name:port".
pub(crate) fn about_service(
    service: &str,
    is_warning: bool,
    reason: &str,
    message: String,
) -> Event {
    let object = service
        .split_once(':')
        .map_or(service, |(object, _)| object);
    let (namespace, name) = object.split_once('/').unwrap_or(("", object));
    Event {
        kind: "Service".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        // Its maker is not told; the control plane looks it up.
        uid: String::new(),
        r#type: if is_warning { "Warning" } else { "Normal" }.to_owned(),
        reason: reason.to_owned(),
        message,
    }
}

/// Messages that wait, and the state a new session must be told again.
#[derive(Default)]
pub(crate) struct Outbox {
    statuses: BTreeMap<String, PodStatus>,
    gone: BTreeMap<String, PodGone>,
    node_status: Option<NodeStatus>,
    acknowledgement: Option<Acknowledgement>,
    events: VecDeque<Event>,
    /// What the current session has not been told.
    unsent: VecDeque<Unsent>,
}

#[derive(Clone, PartialEq, Eq)]
enum Unsent {
    Status(String),
    Gone(String),
    NodeStatus,
    Acknowledgement,
}

impl Outbox {
    /// The latest status of a pod.
    pub(crate) fn put_status(&mut self, status: PodStatus) {
        let uid = status.uid.clone();
        self.statuses.insert(uid.clone(), status);
        self.mark(Unsent::Status(uid));
    }

    /// A pod of which nothing is left here.
    pub(crate) fn put_gone(&mut self, gone: PodGone) {
        let uid = gone.uid.clone();
        self.statuses.remove(&uid);
        self.unsent
            .retain(|unsent| *unsent != Unsent::Status(uid.clone()));
        self.gone.insert(uid.clone(), gone);
        self.mark(Unsent::Gone(uid));
    }

    /// The latest status of the node.
    pub(crate) fn put_node_status(&mut self, status: NodeStatus) {
        self.node_status = Some(status);
        self.mark(Unsent::NodeStatus);
    }

    /// The latest acknowledgement.
    pub(crate) fn put_acknowledgement(&mut self, acknowledgement: Acknowledgement) {
        self.acknowledgement = Some(acknowledgement);
        self.mark(Unsent::Acknowledgement);
    }

    /// An event; sent once.
    pub(crate) fn put_event(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Forgets what is known of pods that the control plane no longer wants here: it has taken
    /// note that they are gone.
    pub(crate) fn retain_pods(&mut self, wanted: impl Fn(&str) -> bool) {
        self.statuses.retain(|uid, _| wanted(uid));
        self.gone.retain(|uid, _| wanted(uid));
    }

    /// A new session knows nothing: everything is to be told again.
    pub(crate) fn begin_session(&mut self) {
        self.unsent.clear();
        if self.node_status.is_some() {
            self.unsent.push_back(Unsent::NodeStatus);
        }
        if self.acknowledgement.is_some() {
            self.unsent.push_back(Unsent::Acknowledgement);
        }
        self.unsent
            .extend(self.statuses.keys().cloned().map(Unsent::Status));
        self.unsent
            .extend(self.gone.keys().cloned().map(Unsent::Gone));
    }

    /// The next message to send.
    pub(crate) fn take(&mut self) -> Option<AgentMessage> {
        while let Some(unsent) = self.unsent.pop_front() {
            let message = match unsent {
                Unsent::Status(uid) => self.statuses.get(&uid).cloned().map(Message::PodStatus),
                Unsent::Gone(uid) => self.gone.get(&uid).cloned().map(Message::PodGone),
                Unsent::NodeStatus => self.node_status.clone().map(Message::NodeStatus),
                Unsent::Acknowledgement => {
                    self.acknowledgement.clone().map(Message::Acknowledgement)
                }
            };
            if message.is_some() {
                return Some(AgentMessage { message });
            }
        }
        let event = self.events.pop_front()?;
        Some(AgentMessage {
            message: Some(Message::Event(event)),
        })
    }

    fn mark(&mut self, unsent: Unsent) {
        if !self.unsent.contains(&unsent) {
            self.unsent.push_back(unsent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: &str, phase: &'static str) -> PodStatus {
        PodStatus {
            uid: uid.into(),
            status_json: phase.into(),
            ..PodStatus::default()
        }
    }

    /// What is sent until nothing is left, in short.
    fn drain(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.take())
            .map(|message| match message.message {
                Some(Message::PodStatus(status)) => {
                    format!(
                        "{} {}",
                        status.uid,
                        String::from_utf8_lossy(&status.status_json)
                    )
                }
                Some(Message::PodGone(gone)) => format!("{} gone", gone.uid),
                Some(Message::Event(event)) => format!("event {}", event.reason),
                Some(Message::Acknowledgement(ack)) => format!("ack {}", ack.generation),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn only_the_latest_status_of_a_pod_is_sent() {
        let mut outbox = Outbox::default();
        outbox.put_status(status("1", "Pending"));
        outbox.put_status(status("2", "Pending"));
        outbox.put_status(status("1", "Running"));
        assert_eq!(drain(&mut outbox), ["1 Running", "2 Pending"]);
        assert!(drain(&mut outbox).is_empty());
    }

    #[test]
    fn a_new_session_is_told_everything_but_events_again() {
        let mut outbox = Outbox::default();
        outbox.put_status(status("1", "Running"));
        outbox.put_gone(PodGone {
            uid: "2".into(),
            ..PodGone::default()
        });
        outbox.put_acknowledgement(Acknowledgement {
            generation: 5,
            ..Default::default()
        });
        outbox.put_event(Event {
            reason: "Started".into(),
            ..Event::default()
        });
        let sent = drain(&mut outbox);
        assert_eq!(sent.len(), 4);
        outbox.begin_session();
        assert_eq!(drain(&mut outbox), ["ack 5", "1 Running", "2 gone"]);
    }

    #[test]
    fn a_gone_pod_has_no_status_any_more() {
        let mut outbox = Outbox::default();
        outbox.put_status(status("1", "Running"));
        outbox.put_gone(PodGone {
            uid: "1".into(),
            ..PodGone::default()
        });
        assert_eq!(drain(&mut outbox), ["1 gone"]);
        outbox.retain_pods(|_| false);
        outbox.begin_session();
        assert!(drain(&mut outbox).is_empty());
    }

    #[test]
    fn events_are_bounded_while_nobody_listens() {
        let mut outbox = Outbox::default();
        for index in 0..EVENTS_MAX + 10 {
            outbox.put_event(Event {
                reason: index.to_string(),
                ..Event::default()
            });
        }
        let sent = drain(&mut outbox);
        assert_eq!(sent.len(), EVENTS_MAX);
        assert_eq!(sent[0], "event 10");
    }
}
