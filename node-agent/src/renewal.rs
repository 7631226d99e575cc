//! The node's certificate, renewed over the session before its time is over. The session goes on with
//! the one it was begun with; whoever dials next reads the file.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use fairlead_config::{read, write_private};
use fairlead_pki::Validity;
use fairlead_proto::node::{RenewRequest, node_client::NodeClient};
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::config::Layout;

/// How often it is looked whether renewal is due, at the least: clocks are set, and machines sleep.
const LOOK_PERIOD: Duration = Duration::from_secs(3600);
/// Between two attempts, also where what was got is due again at once.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Renews the certificate whenever less than a third of its time is left, for as long as the session
/// lasts.
pub(crate) async fn keep(
    mut client: NodeClient<Channel>,
    layout: &Layout,
    node: &str,
) -> Infallible {
    let mut last_failure = String::new();
    loop {
        let due_in = read(&layout.certificate())
            .ok()
            .and_then(|pem| Validity::of_pem(&pem))
            .map(|validity| validity.renewal_in(SystemTime::now()));
        if let Some(due_in) = due_in
            && !due_in.is_zero()
        {
            sleep(due_in.min(LOOK_PERIOD)).await;
            continue;
        }
        match renew(&mut client, layout, node).await {
            Ok(validity) => {
                last_failure.clear();
                tracing::info!(until = %until(validity), "certificate renewed");
            }
            Err(error) => {
                let failure = format!("{error:#}");
                // The same failure is told once, not once a minute for months.
                if failure != last_failure {
                    tracing::warn!(error = failure, "certificate not renewed; trying again");
                    last_failure = failure;
                }
            }
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Puts a new certificate in the present one's place.
async fn renew(
    client: &mut NodeClient<Channel>,
    layout: &Layout,
    node: &str,
) -> anyhow::Result<Validity> {
    let common_name = format!("system:node:{node}");
    let csr_pem = fairlead_pki::renewal_request(&read(&layout.key())?, &common_name)?;
    let answer = client.renew(RenewRequest { csr_pem }).await;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let certificate_pem = answer.into_inner().certificate_pem;
    let validity = Validity::of_pem(&certificate_pem).context("the answer is no certificate")?;
    ensure!(
        validity.end > SystemTime::now(),
        "the new certificate's time is over: compare the clocks"
    );
    write_private(&layout.certificate(), &certificate_pem)?;
    Ok(validity)
}

fn until(validity: Validity) -> String {
    jiff::Timestamp::try_from(validity.end).map_or_else(|_| "?".to_owned(), |end| end.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use async_trait::async_trait;
    use fairlead_pki::{Authority, CONTROL_SERVER_NAME, Subject, Usage};
    use fairlead_proto::node::{
        AgentMessage, ControlMessage, JoinRequest, JoinResponse, RenewResponse, TunnelFrame,
        node_server::{Node, NodeServer},
    };
    use testbed::Deadline;
    use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
    use tonic::{
        Request, Response, Status, Streaming,
        transport::{Certificate, Endpoint, Identity, Server, ServerTlsConfig},
    };

    use super::*;
    use crate::session;

    /// How long anything may take on a busy machine.
    const DEADLINE: Duration = Duration::from_secs(30);

    fn subject(common_name: &str) -> Subject<'_> {
        Subject {
            common_name,
            organization: Some("system:nodes"),
            names: &[],
        }
    }

    /// A member of the control plane that does nothing but renew, for a year.
    struct Member(Authority);

    #[async_trait]
    impl Node for Member {
        type SessionStream = ReceiverStream<Result<ControlMessage, Status>>;
        type TunnelStream = ReceiverStream<Result<TunnelFrame, Status>>;

        async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
            Err(Status::unimplemented("join"))
        }

        async fn renew(
            &self,
            request: Request<RenewRequest>,
        ) -> Result<Response<RenewResponse>, Status> {
            let subject = subject("system:node:n1");
            let csr = request.into_inner().csr_pem;
            let certificate_pem = self.0.sign(&csr, &subject, Usage::Client).unwrap();
            Ok(Response::new(RenewResponse { certificate_pem }))
        }

        async fn session(
            &self,
            _: Request<Streaming<AgentMessage>>,
        ) -> Result<Response<Self::SessionStream>, Status> {
            Err(Status::unimplemented("session"))
        }

        async fn tunnel(
            &self,
            _: Request<Streaming<TunnelFrame>>,
        ) -> Result<Response<Self::TunnelStream>, Status> {
            Err(Status::unimplemented("tunnel"))
        }
    }

    /// Serves those that show a certificate of the authority.
    async fn serve(authority: Authority) -> SocketAddr {
        let names = [CONTROL_SERVER_NAME.to_owned()];
        let leaf = authority.issue(
            &Subject {
                common_name: "control",
                organization: None,
                names: &names,
            },
            Usage::Server,
        );
        let leaf = leaf.unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(leaf.certificate_pem, leaf.key_pem))
            .client_ca_root(Certificate::from_pem(authority.certificate_pem()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder().tls_config(tls).unwrap();
        let server = server.add_service(NodeServer::new(Member(authority)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// Dials as a session does, with what the files say now.
    async fn dial(layout: &Layout, member: SocketAddr) -> anyhow::Result<NodeClient<Channel>> {
        let channel = Endpoint::from_shared(format!("https://{member}"))?
            .tls_config(session::tls(layout)?)?
            .connect()
            .await?;
        Ok(NodeClient::new(channel))
    }

    #[tokio::test]
    async fn certificate_that_is_soon_over_is_renewed_and_used_by_who_dials_next() {
        fairlead_pki::install_crypto_provider();
        let authority = Authority::generate("cluster").unwrap();
        let (ca_pem, ca_key) = (authority.certificate_pem().to_owned(), authority.key_pem());
        let short = Authority::load(&ca_pem, ca_key).unwrap();
        let short = short.with_leaf_lifetime(Duration::from_secs(3));
        let old = short
            .issue(&subject("system:node:n1"), Usage::Client)
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.create().unwrap();
        write_private(&layout.key(), &old.key_pem).unwrap();
        write_private(&layout.certificate(), &old.certificate_pem).unwrap();
        write_private(&layout.authority(), &ca_pem).unwrap();
        let member = serve(authority).await;

        let client = dial(&layout, member).await.unwrap();
        let left = |pem: &str| {
            let end = Validity::of_pem(pem).unwrap().end;
            end.duration_since(SystemTime::now()).unwrap_or_default()
        };
        let renewed = async {
            loop {
                let now = read(&layout.certificate()).unwrap();
                if now != old.certificate_pem {
                    break now;
                }
                tokio::task::yield_now().await;
            }
        };
        let renewed = tokio::select! {
            never = keep(client, &layout, "n1") => match never {},
            renewed = tokio::time::timeout(DEADLINE, renewed) => renewed.unwrap(),
        };
        assert!(left(&renewed) > Duration::from_secs(300 * 24 * 3600));

        // Once the old one's time is over, only the new one is let in.
        let is_let_in = async || {
            let mut client = dial(&layout, member).await?;
            client.renew(request(&layout)).await?;
            Ok::<_, anyhow::Error>(())
        };
        is_let_in().await.unwrap();
        write_private(&layout.certificate(), &old.certificate_pem).unwrap();
        Deadline::seconds(30)
            .until_async("the old one's end", async || is_let_in().await.is_err())
            .await
            .unwrap();
        write_private(&layout.certificate(), &renewed).unwrap();
        is_let_in().await.unwrap();
    }

    fn request(layout: &Layout) -> RenewRequest {
        let key = read(&layout.key()).unwrap();
        RenewRequest {
            csr_pem: fairlead_pki::renewal_request(&key, "system:node:n1").unwrap(),
        }
    }
}
