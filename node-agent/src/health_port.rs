//! Where load balancers in front of the cluster ask whether this node has pods of a service whose
//! external traffic stays on the node (`healthCheckNodePort`): answered as kube-proxy does
//! (pkg/proxy/healthcheck/service_health.go).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fairlead_dataplane::{Dataplane, LocalBackends};
use fairlead_proto::node::Event;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::outbox::about_service;

/// Between two attempts to open a port that somebody else has.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long a client may take for its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients of one port at the same time; more wait.
const CLIENTS_MAX: usize = 64;

/// Tells of an event, from whatever task.
pub(crate) type Tell = Arc<dyn Fn(Event) + Send + Sync>;

/// Keeps the ports of the state in force open at `addresses`, for ever.
pub(crate) async fn follow(dataplane: Arc<Dataplane>, addresses: Vec<IpAddr>, tell: Tell) {
    let mut in_force = dataplane.in_force();
    // What came into force before counts too.
    in_force.mark_changed();
    let mut ports = Ports {
        addresses,
        tell,
        open: BTreeMap::new(),
    };
    while in_force.changed().await.is_ok() {
        ports.set(dataplane.local_backends());
    }
}

/// The ports that are open, and what is said there.
struct Ports {
    addresses: Vec<IpAddr>,
    tell: Tell,
    open: BTreeMap<u16, Port>,
}

struct Port {
    said: watch::Sender<LocalBackends>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Port {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Ports {
    fn set(&mut self, wanted: BTreeMap<u16, LocalBackends>) {
        self.open.retain(|port, _| wanted.contains_key(port));
        for (number, backends) in wanted {
            match self.open.get(&number) {
                Some(port) => drop(port.said.send_replace(backends)),
                None => drop(self.open.insert(number, self.open(number, backends))),
            }
        }
    }

    fn open(&self, number: u16, backends: LocalBackends) -> Port {
        let (said, _) = watch::channel(backends);
        let addresses = self.addresses.iter();
        let tasks = addresses.map(|address| {
            let at = SocketAddr::new(*address, number);
            tokio::spawn(serve(at, said.subscribe(), Arc::clone(&self.tell)))
        });
        let tasks = tasks.collect();
        Port { said, tasks }
    }
}

async fn serve(at: SocketAddr, said: watch::Receiver<LocalBackends>, tell: Tell) {
    let listener = bind(at, &said, &tell).await;
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    // Connections end with the port: what is said there is nobody's any more.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%at, %error, "cannot accept at a health-check port");
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        let said = said.clone();
        let service = service_fn(move |_request| {
            let answer = answer(&said.borrow());
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            // A client that went away is its own affair.
            let _ended = connection.await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Opens the port, and tries again for as long as somebody else has it.
async fn bind(at: SocketAddr, said: &watch::Receiver<LocalBackends>, tell: &Tell) -> TcpListener {
    let mut is_told = false;
    loop {
        let error: io::Error = match TcpListener::bind(at).await {
            Ok(listener) => {
                tracing::info!(%at, "health-check port open");
                return listener;
            }
            Err(error) => error,
        };
        if !is_told {
            is_told = true;
            let service = said.borrow().service.clone();
            tracing::warn!(%at, service, %error, "cannot open a health-check port");
            let message = format!("cannot listen at {at} for health checks: {error}");
            // As kube-proxy calls it.
            let reason = "FailedToStartServiceHealthcheck";
            tell(about_service(&service, true, reason, message));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn answer(said: &LocalBackends) -> Response<Full<Bytes>> {
    let (namespace, name) = said.service.split_once('/').unwrap_or(("", &said.service));
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": said.count,
        "serviceProxyHealthy": true,
    });
    let status = match said.count {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = header::HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let nosniff = header::HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    headers.insert("x-load-balancing-endpoint-weight", said.count.into());
    response
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Mutex};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LIMIT: Duration = Duration::from_secs(30);

    fn backends(count: usize) -> LocalBackends {
        LocalBackends {
            service: "shop/web".to_owned(),
            count,
        }
    }

    fn ports() -> (Ports, Arc<Mutex<Vec<Event>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&told);
        let ports = Ports {
            addresses: vec![HERE],
            tell: Arc::new(move |event| events.lock().unwrap().push(event)),
            open: BTreeMap::new(),
        };
        (ports, told)
    }

    /// A port that was free a moment ago.
    async fn free_port() -> u16 {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        listener.local_addr().unwrap().port()
    }

    async fn ask(port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect((HERE, port)).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Asks until the port is open.
    async fn until_answered(port: u16) -> String {
        let asked = async {
            loop {
                if let Ok(answer) = ask(port).await {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, asked).await.unwrap()
    }

    #[tokio::test]
    async fn port_says_how_many_backends_are_here_and_closes_with_its_service() {
        let (mut ports, told) = ports();
        let port = free_port().await;
        ports.set(BTreeMap::from([(port, backends(2))]));
        let answer = until_answered(port).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["service"], json!({"namespace": "shop", "name": "web"}));
        assert_eq!(body["localEndpoints"], 2);
        ports.set(BTreeMap::from([(port, backends(0))]));
        let answer = ask(port).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\"localEndpoints\":0"), "{answer}");
        ports.set(BTreeMap::new());
        let closed = async { while ask(port).await.is_ok() {} };
        timeout(LIMIT, closed).await.unwrap();
        assert!(told.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn port_that_somebody_else_has_is_told_once_and_opened_when_it_is_free() {
        let (mut ports, told) = ports();
        let occupant = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = occupant.local_addr().unwrap().port();
        ports.set(BTreeMap::from([(port, backends(1))]));
        tokio::time::sleep(3 * RETRY_PAUSE).await;
        {
            let told = told.lock().unwrap();
            assert_eq!(told.len(), 1);
            assert_eq!((&*told[0].namespace, &*told[0].name), ("shop", "web"));
            assert!(told[0].message.contains("in use"), "{}", told[0].message);
        }
        drop(occupant);
        tokio::time::sleep(2 * RETRY_PAUSE).await;
        let answer = until_answered(port).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
