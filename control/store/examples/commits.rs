//! Commits per second of one and of three members in this process, over real sockets and disks:
//! `cargo run --release -p fairlead-store --example commits -- [DIRECTORY]`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_api::Index;
use fairlead_store::{
    Config, Expect, Key, Limits, MemberId, Op, RevisionedBytes, Store, Timing, Transaction,
};
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

const VALUE_BYTES: usize = 1024;
const RUN: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    println!("members  clients  commits/s  p50 ms  p99 ms");
    for size in [1, 3] {
        let members = start(size, &dir.path().join(size.to_string())).await?;
        for clients in [1, 16, 64, 256] {
            let mut took = run(&members[0], clients).await;
            took.sort();
            let rate = took.len() as f64 / RUN.as_secs_f64();
            let ms = |share: f64| {
                let at = (took.len() as f64 * share) as usize;
                took[at.min(took.len() - 1)].as_secs_f64() * 1e3
            };
            println!(
                "{size:7}  {clients:7}  {rate:9.0}  {:6.2}  {:6.2}",
                ms(0.5),
                ms(0.99)
            );
        }
        for member in members {
            member.shutdown().await;
        }
    }
    Ok(())
}

async fn start(size: u64, dir: &Path) -> Result<Vec<Store>, Box<dyn std::error::Error>> {
    let mut members: Vec<Store> = Vec::new();
    let mut first = String::new();
    for id in 1..=size {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let data_dir = dir.join(id.to_string());
        let store = Store::open(config(data_dir, MemberId(id), endpoint.clone())).await?;
        let serve = Server::builder().add_service(store.raft_service());
        // Without it Nagle's algorithm holds answers back for 40 ms.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(serve.serve_with_incoming(incoming));
        if id == 1 {
            store.initialize().await?;
            first = endpoint;
        } else {
            store.join(&first).await?;
        }
        members.push(store);
    }
    Ok(members)
}

fn config(data_dir: PathBuf, member: MemberId, endpoint: String) -> Config {
    Config {
        data_dir,
        member,
        cluster_id: "bench".to_owned(),
        endpoint,
        tls: None,
        timing: Timing::default(),
        limits: Limits::default(),
    }
}

/// How long each commit took, of all that `clients` made one after the other until time was up.
async fn run(store: &Store, clients: usize) -> Vec<Duration> {
    let end = Instant::now() + RUN;
    let clients: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < end {
                    let begun = Instant::now();
                    let key = format!(
                        "/registry/core/configmaps/bench/{client}-{}",
                        took.len() % 100
                    );
                    store.commit(put(&key)).await.expect("there is a quorum");
                    took.push(begun.elapsed());
                }
                took
            })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.expect("clients do not panic"));
    }
    all
}

fn put(key: &str) -> Transaction {
    let op = Op::Put {
        key: Key::raw(key),
        expect: Expect::Any,
        value: RevisionedBytes {
            head: vec![b'x'; VALUE_BYTES].into(),
            tail: Default::default(),
        },
        index: Arc::new(Index::default()),
    };
    Transaction {
        checks: Vec::new(),
        ops: vec![op],
    }
}
