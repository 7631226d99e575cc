//! The one connection to the control plane: dialled, kept, dialled again. Everything that reaches
//! the node comes through it, and everything the node has to tell leaves by it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use fairlead_api::{BackendId, Generation};
use fairlead_config::read;
use fairlead_proto::node::{
    AgentMessage, ControlMessage, Heartbeat, Hello, agent_message, control_message,
    node_client::NodeClient,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{config::Layout, desired::Update, loads::Told, node, renewal, tunnel, work::Node};

/// The addresses that a node announces find another one when it has been silent for a second and a
/// half: this leaves room for five that are lost or late. A heartbeat is some 90 bytes on the wire.
const HEARTBEAT_PERIOD: Duration = Duration::from_millis(250);
/// How often the control plane is told how busy backends are, at most.
const LOADS_PERIOD: Duration = Duration::from_secs(1);
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two rounds over all members.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Notices a peer that vanished without a word.
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(5);
/// Snapshots of large clusters are long messages.
const MESSAGE_SIZE_MAX: usize = 256 << 20;

/// What a session needs besides the node.
pub(crate) struct Session {
    node: Arc<Node>,
    updates: mpsc::Sender<Update>,
    layout: Layout,
}

/// By what the files say now: certificates are renewed.
pub(crate) fn tls(layout: &Layout) -> Result<ClientTlsConfig, fairlead_config::Error> {
    Ok(ClientTlsConfig::new()
        .identity(Identity::from_pem(
            read(&layout.certificate())?,
            read(&layout.key())?,
        ))
        .ca_certificate(Certificate::from_pem(read(&layout.authority())?))
        .domain_name(fairlead_pki::CONTROL_SERVER_NAME))
}

impl Session {
    /// # Errors
    /// The node has no certificate, or it cannot be read.
    pub(crate) fn new(
        node: Arc<Node>,
        layout: Layout,
        updates: mpsc::Sender<Update>,
    ) -> anyhow::Result<Self> {
        tls(&layout)?;
        Ok(Self {
            node,
            updates,
            layout,
        })
    }

    /// Keeps a session with whichever member leads, for ever.
    pub(crate) async fn run(self) {
        let endpoints = self.node.config.control_endpoints.clone();
        let mut last_failure = String::new();
        loop {
            for endpoint in &endpoints {
                let Err(error) = self.hold(*endpoint).await;
                self.node.dataplane.set_in_session(false);
                // The same failure is told once, not twice a second for as long as it lasts.
                let failure = format!("{endpoint}: {error:#}");
                if failure != last_failure {
                    tracing::warn!(%endpoint, error = format!("{error:#}"), "no session");
                    last_failure = failure;
                }
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// One session; ends only by failing.
    async fn hold(&self, endpoint: SocketAddr) -> anyhow::Result<std::convert::Infallible> {
        let channel = Endpoint::from_shared(format!("https://{endpoint}"))?
            .tls_config(tls(&self.layout)?)?
            .connect_timeout(DIAL_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_PERIOD)
            .keep_alive_timeout(KEEPALIVE_PERIOD)
            .connect()
            .await
            .context("cannot connect")?;
        let mut client = NodeClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_SIZE_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_MAX);
        let (sender, receiver) = mpsc::channel(64);
        sender
            .send(self.hello())
            .await
            .context("the session ended at once")?;
        let opened = timeout(DIAL_TIMEOUT, client.session(ReceiverStream::new(receiver)));
        let stream = match opened.await.context("no answer")? {
            Ok(response) => response.into_inner(),
            Err(status) => bail!("{}", status.message()),
        };
        tracing::info!(%endpoint, "session begun");
        self.node.dataplane.set_in_session(true);
        self.with_outbox(|outbox| outbox.begin_session());
        tokio::select! {
            ended = self.converse(channel, sender, stream) => ended,
            never = renewal::keep(client, &self.layout, self.node.config.node_name.as_str()) => match never {},
        }
    }

    async fn converse(
        &self,
        channel: Channel,
        sender: mpsc::Sender<AgentMessage>,
        mut stream: Streaming<ControlMessage>,
    ) -> anyhow::Result<std::convert::Infallible> {
        let mut heartbeat = interval(HEARTBEAT_PERIOD);
        let mut held = Generation::default();
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut loads = interval(LOADS_PERIOD);
        loads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::default();
        loop {
            while let Some(message) = self.with_outbox(|outbox| outbox.take()) {
                sender.send(message).await.context("the session ended")?;
            }
            tokio::select! {
                () = self.node.told.notified() => {}
                _ = heartbeat.tick() => {
                    let message = Some(agent_message::Message::Heartbeat(Heartbeat {}));
                    sender.send(AgentMessage { message }).await.context("the session ended")?;
                }
                _ = loads.tick() => {
                    if let Some(loads) = told.tell(&self.node.dataplane.loads()) {
                        let message = Some(agent_message::Message::Loads(loads));
                        sender.send(AgentMessage { message }).await.context("the session ended")?;
                    }
                }
                received = stream.message() => match received {
                    Ok(Some(message)) => self.receive(&channel, message, &mut held).await?,
                    Ok(None) => bail!("the control plane closed the session"),
                    Err(status) => bail!("the session broke: {}", status.message()),
                }
            }
        }
    }

    /// Passes on what was received; `held` is the generation that was received last.
    async fn receive(
        &self,
        channel: &Channel,
        message: ControlMessage,
        held: &mut Generation,
    ) -> anyhow::Result<()> {
        match message.message {
            Some(control_message::Message::Snapshot(snapshot)) => {
                *held = Generation(snapshot.generation);
                self.updates.send(Update::Snapshot(snapshot)).await?;
            }
            Some(control_message::Message::Delta(delta)) => {
                let base = Generation(delta.base_generation);
                if base != *held {
                    bail!("a delta from generation {base} does not follow generation {held}");
                }
                *held = Generation(delta.generation);
                self.updates.send(Update::Delta(delta)).await?;
            }
            Some(control_message::Message::OpenTunnel(open)) => {
                tokio::spawn(tunnel::serve(Arc::clone(&self.node), channel.clone(), open));
            }
            Some(control_message::Message::Loads(loads)) => {
                let loads = loads.backends.into_iter();
                let loads = loads.map(|load| (BackendId(load.id), load.connections));
                let dataplane = &self.node.dataplane;
                dataplane.set_loads_elsewhere(loads.collect()).await?;
            }
            None => {
                bail!("a message of an unknown kind: the control plane is newer than the agent")
            }
        }
        Ok(())
    }

    fn hello(&self) -> AgentMessage {
        let node = &self.node;
        let readiness = node
            .readiness
            .lock()
            .expect("nothing panics while it is held")
            .clone();
        let object = node::object(&node.config, &node.data_dir, &readiness);
        let hello = Hello {
            node_name: node.config.node_name.as_str().to_owned(),
            node_json: object.to_string().into(),
            generation: node.dataplane.generation().0,
        };
        AgentMessage {
            message: Some(agent_message::Message::Hello(hello)),
        }
    }

    fn with_outbox<T>(&self, with: impl FnOnce(&mut crate::outbox::Outbox) -> T) -> T {
        with(
            &mut self
                .node
                .outbox
                .lock()
                .expect("nothing panics while the outbox is held"),
        )
    }
}
