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
use futures::{StreamExt, stream::FuturesUnordered};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
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
/// Before a member is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long the member's machine may leave heartbeats unacknowledged (`TCP_USER_TIMEOUT`, tcp(7)):
/// after that it is gone, and another member may lead. How busy the member itself is does not matter
/// to that.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(1);
/// Notices a member that does not read any more.
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

/// A session that a member has given.
struct Opened {
    endpoint: SocketAddr,
    client: NodeClient<Channel>,
    channel: Channel,
    sender: mpsc::Sender<AgentMessage>,
    stream: Streaming<ControlMessage>,
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
        loop {
            let opened = self.find_leader().await;
            let (endpoint, begun) = (opened.endpoint, Instant::now());
            let Err(error) = self.hold(opened).await;
            self.node.dataplane.set_in_session(false);
            tracing::warn!(%endpoint, error = format!("{error:#}"), "no session any more");
            if begun.elapsed() < RETRY_PAUSE {
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Asks all members at once, each again and again, until one gives a session: only the one that
    /// leads does, and nobody is waited for whose machine is gone.
    async fn find_leader(&self) -> Opened {
        let endpoints = &self.node.config.control_endpoints;
        let asked = endpoints.iter().map(|one| self.ask(*one));
        let mut asked: FuturesUnordered<_> = asked.collect();
        match asked.next().await {
            Some(opened) => opened,
            // A node without members has nobody to ask.
            None => std::future::pending().await,
        }
    }

    /// Asks a member for a session until it gives one.
    async fn ask(&self, endpoint: SocketAddr) -> Opened {
        let mut last_failure = String::new();
        loop {
            let failure = match self.open(endpoint).await {
                Ok(opened) => return opened,
                Err(error) => format!("{error:#}"),
            };
            // The same failure is told once, not several times a second for as long as it lasts.
            if failure != last_failure {
                tracing::warn!(%endpoint, failure, "no session");
                last_failure = failure;
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Opens a session with a member.
    async fn open(&self, endpoint: SocketAddr) -> anyhow::Result<Opened> {
        let mut connector = HttpConnector::new();
        // The endpoint's own settings add TLS.
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
        let channel = Endpoint::from_shared(format!("https://{endpoint}"))?
            .tls_config(tls(&self.layout)?)?
            .connect_timeout(DIAL_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_PERIOD)
            .keep_alive_timeout(KEEPALIVE_PERIOD)
            .connect_with_connector(connector)
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
        Ok(Opened {
            endpoint,
            client,
            channel,
            sender,
            stream,
        })
    }

    /// One session; ends only by failing.
    async fn hold(&self, opened: Opened) -> anyhow::Result<std::convert::Infallible> {
        tracing::info!(endpoint = %opened.endpoint, "session begun");
        self.node.dataplane.set_in_session(true);
        self.with_outbox(|outbox| outbox.begin_session());
        let Opened {
            client,
            channel,
            sender,
            stream,
            ..
        } = opened;
        let own = self.node.config.node_name.as_str();
        tokio::select! {
            ended = self.converse(channel, sender, stream) => ended,
            never = renewal::keep(client, &self.layout, own) => match never {},
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
