//! Asks all servers, each in its own rhythm.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{Failure, Health, Target, Verdict};

/// Questions that are open at the same time. More wait, and so does their rhythm.
const OPEN_MAX: usize = 256;

/// Another thing is thought of a server than before.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub target: Target,
    /// What is thought now.
    pub health: Health,
    /// The failure that was one too many; `None` for one that has recovered.
    pub failure: Option<Failure>,
}

/// Asks servers for as long as it is kept.
pub struct Monitor {
    tasks: HashMap<Target, JoinHandle<()>>,
    reports: mpsc::Sender<Report>,
    open: Arc<Semaphore>,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("targets", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

impl Monitor {
    /// Asks nobody yet; what it finds out is sent to `reports`.
    pub fn new(reports: mpsc::Sender<Report>) -> Self {
        Self {
            tasks: HashMap::new(),
            reports,
            open: Arc::new(Semaphore::new(OPEN_MAX)),
        }
    }

    /// Asks `targets` from now on, and nobody else. What is thought of those that were asked before
    /// stays; of new ones, what is given with them is thought at first.
    pub fn watch(&mut self, targets: BTreeMap<Target, Health>) {
        let gone: BTreeSet<Target> = self
            .tasks
            .keys()
            .filter(|target| !targets.contains_key(target))
            .cloned()
            .collect();
        for target in gone {
            if let Some(task) = self.tasks.remove(&target) {
                task.abort();
            }
        }
        for (target, health) in targets {
            if self.tasks.contains_key(&target) {
                continue;
            }
            let asking = ask_on(
                target.clone(),
                Verdict::new(health),
                self.reports.clone(),
                Arc::clone(&self.open),
            );
            self.tasks.insert(target, tokio::spawn(asking));
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

/// Asks one server, until nobody listens to the reports any more.
async fn ask_on(
    target: Target,
    mut verdict: Verdict,
    reports: mpsc::Sender<Report>,
    open: Arc<Semaphore>,
) {
    // All at once would be a burst, on our side and on that of a server of many services.
    let mut next = Instant::now() + target.rhythm.interval.mul_f64(rand::random());
    loop {
        sleep_until(next).await;
        let answer = {
            let Ok(_permit) = open.acquire().await else {
                return;
            };
            target
                .probe
                .ask(target.address, target.rhythm.timeout)
                .await
        };
        if let Err(failure) = &answer {
            tracing::debug!(server = %target.address, %failure, "a check failed");
        }
        if verdict.take(answer.is_ok(), &target.rhythm) {
            let report = Report {
                target: target.clone(),
                health: verdict.health(),
                failure: answer.err(),
            };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        next = (next + jittered(target.rhythm.interval)).max(Instant::now());
    }
}

/// A tenth more or less, so that servers are not asked in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::{Duration, timeout},
    };

    use super::*;
    use crate::{Probe, Rhythm};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const LIMIT: Duration = Duration::from_secs(30);

    fn target(probe: Probe) -> Target {
        let rhythm = Rhythm {
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        };
        Target {
            address: HERE,
            probe,
            rhythm,
        }
    }

    async fn next(reports: &mut mpsc::Receiver<Report>) -> Report {
        timeout(LIMIT, reports.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn server_that_stops_and_starts_again_is_reported_twice() {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let place = listener.local_addr().unwrap();
        let (sender, mut reports) = mpsc::channel(8);
        let mut monitor = Monitor::new(sender);
        let target = target(Probe::Tcp { port: place.port() });
        monitor.watch(BTreeMap::from([(target.clone(), Health::Healthy)]));
        drop(listener);
        let down = next(&mut reports).await;
        assert_eq!((down.health, &down.target), (Health::Unhealthy, &target));
        assert!(down.failure.unwrap().to_string().contains("refused"));
        // Known already, so it stays unhealthy although it is said to be healthy.
        monitor.watch(BTreeMap::from([(target.clone(), Health::Healthy)]));
        let _listener = TcpListener::bind(place).await.unwrap();
        let up = next(&mut reports).await;
        assert_eq!(up.health, Health::Healthy);
        assert!(up.failure.is_none());
    }

    #[tokio::test]
    async fn server_whose_answer_turns_bad_is_reported() {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            for answer in ["200 OK", "200 OK", "500 No"]
                .into_iter()
                .chain(std::iter::repeat("500"))
            {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _request = stream.read(&mut [0; 1024]).await.unwrap();
                let text = format!("HTTP/1.1 {answer}\r\n\r\n");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        let (sender, mut reports) = mpsc::channel(8);
        let mut monitor = Monitor::new(sender);
        let target = target(Probe::Http {
            port,
            path: "/".to_owned(),
        });
        monitor.watch(BTreeMap::from([(target, Health::Healthy)]));
        let down = next(&mut reports).await;
        assert_eq!(down.health, Health::Unhealthy);
        assert_eq!(down.failure.unwrap().to_string(), "HTTP status 500");
        serving.abort();
    }

    #[tokio::test]
    async fn who_is_not_watched_any_more_is_not_asked() {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, _reports) = mpsc::channel(8);
        let mut monitor = Monitor::new(sender);
        monitor.watch(BTreeMap::from([(
            target(Probe::Tcp { port }),
            Health::Healthy,
        )]));
        timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        monitor.watch(BTreeMap::new());
        // What was on its way may still come; then nothing does.
        while timeout(Duration::from_millis(500), listener.accept())
            .await
            .is_ok()
        {}
    }
}
