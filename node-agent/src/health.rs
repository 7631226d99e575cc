//! Real servers that do not answer get no connections: their checks are those of the state in force,
//! what comes of them goes to the dataplane, and is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use fairlead_api::{BackendId, error_chain};
use fairlead_dataplane::{
    Dataplane, ServerCheck,
    desired::{HealthCheck, HealthCheckKind},
};
use fairlead_health::{Health, Monitor, Probe, Report, Rhythm, Target};
use fairlead_proto::node::Event;
use tokio::sync::mpsc;

use crate::outbox::about_service;

/// Reports that wait while the dataplane is changed.
const REPORTS_MAX: usize = 256;

/// Checks the servers of whatever state is in force, for ever. What does not answer is kept at
/// `record`, so that another agent does not begin by trusting it. `tell` is told of every change.
pub(crate) async fn follow(dataplane: Arc<Dataplane>, record: PathBuf, tell: impl Fn(Event)) {
    let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
    let mut in_force = dataplane.in_force();
    // What came into force before counts too.
    in_force.mark_changed();
    let mut servers = Servers {
        unhealthy: BTreeMap::new(),
        remembered: remembered(&record),
        users: BTreeMap::new(),
        record,
    };
    let mut monitor = Monitor::new(sender);
    loop {
        tokio::select! {
            changed = in_force.changed() => {
                if changed.is_err() {
                    return;
                }
                monitor.watch(servers.set(dataplane.server_checks()));
            }
            Some(report) = reports.recv() => {
                servers.take(report, &tell);
                while let Ok(report) = reports.try_recv() {
                    servers.take(report, &tell);
                }
                servers.remember();
            }
        }
        if let Err(error) = dataplane.set_unhealthy(servers.unhealthy_backends()).await {
            let error = error_chain(&error);
            tracing::error!(error, "servers that do not answer could not be taken out");
        }
    }
}

/// What is checked, and what came of it.
struct Servers {
    /// Whose servers they are: each backend, and its service.
    users: BTreeMap<Target, Vec<(BackendId, String)>>,
    /// Those that do not answer, and why.
    unhealthy: BTreeMap<Target, String>,
    /// What the agent before found out, by [`name`], until it has been asked for.
    remembered: BTreeSet<String>,
    record: PathBuf,
}

impl Servers {
    /// Takes over what is to be checked now, and gives what is thought of each.
    fn set(&mut self, checks: Vec<ServerCheck>) -> BTreeMap<Target, Health> {
        self.users.clear();
        for check in checks {
            let user = (check.backend, check.service.clone());
            self.users.entry(target(&check)).or_default().push(user);
        }
        for target in self.users.keys() {
            if self.remembered.remove(&name(target)) {
                let reason = "did not answer before the agent was restarted".to_owned();
                self.unhealthy.insert(target.clone(), reason);
            }
        }
        let users = &self.users;
        self.unhealthy
            .retain(|target, _| users.contains_key(target));
        let health = |target| match self.unhealthy.contains_key(target) {
            true => Health::Unhealthy,
            false => Health::Healthy,
        };
        users.keys().map(|one| (one.clone(), health(one))).collect()
    }

    fn take(&mut self, report: Report, tell: &impl Fn(Event)) {
        let Some(users) = self.users.get(&report.target) else {
            return;
        };
        let server = name(&report.target);
        let (reason, message) = match report.health {
            Health::Healthy => {
                self.unhealthy.remove(&report.target);
                tracing::info!(server, "a server answers again");
                ("ServerHealthy", format!("{server} answers again"))
            }
            Health::Unhealthy => {
                let failure = report.failure.map(|failure| failure.to_string());
                let failure = failure.unwrap_or_default();
                tracing::warn!(server, failure, "a server does not answer");
                self.unhealthy
                    .insert(report.target.clone(), failure.clone());
                (
                    "ServerUnhealthy",
                    format!("{server} does not answer: {failure}"),
                )
            }
        };
        let services: BTreeSet<&str> = users.iter().map(|(_, service)| service.as_str()).collect();
        for service in services {
            let is_warning = report.health == Health::Unhealthy;
            tell(about_service(service, is_warning, reason, message.clone()));
        }
    }

    fn unhealthy_backends(&self) -> BTreeSet<BackendId> {
        let users = self.unhealthy.keys().filter_map(|one| self.users.get(one));
        users.flatten().map(|(backend, _)| *backend).collect()
    }

    fn remember(&self) {
        let names: Vec<String> = self.unhealthy.keys().map(name).collect();
        let written = fairlead_config::write_private(&self.record, &(names.join("\n") + "\n"));
        if let Err(error) = written {
            // Costs the next agent a few failed checks.
            tracing::warn!(
                error = error_chain(&error),
                "which servers do not answer is not kept"
            );
        }
    }
}

fn remembered(record: &std::path::Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn target(check: &ServerCheck) -> Target {
    let ServerCheck {
        address,
        port,
        check,
        ..
    } = check;
    let HealthCheck {
        kind,
        interval,
        timeout,
        rise,
        fall,
        ..
    } = check;
    Target {
        address: *address,
        probe: match kind {
            HealthCheckKind::Tcp => Probe::Tcp { port: *port },
            HealthCheckKind::Http { path } => Probe::Http {
                port: *port,
                path: path.clone(),
            },
            HealthCheckKind::Ping => Probe::Ping,
        },
        rhythm: Rhythm {
            interval: *interval,
            timeout: *timeout,
            rise: *rise,
            fall: *fall,
        },
    }
}

/// What people call a server and its check, "198.51.100.7 tcp port 80".
fn name(target: &Target) -> String {
    let address = target.address;
    match &target.probe {
        Probe::Tcp { port } => format!("{address} tcp port {port}"),
        Probe::Http { port, path } => format!("{address} http port {port} {path}"),
        Probe::Ping => format!("{address} ping"),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use super::*;

    fn check(backend: u32, service: &str, last: u8, port: u16) -> ServerCheck {
        ServerCheck {
            backend: BackendId(backend),
            service: service.to_owned(),
            address: [198, 51, 100, last].into(),
            port,
            check: HealthCheck {
                kind: HealthCheckKind::Tcp,
                port: None,
                interval: Duration::from_secs(2),
                timeout: Duration::from_secs(1),
                rise: 2,
                fall: 3,
            },
        }
    }

    fn servers(directory: &tempfile::TempDir) -> Servers {
        let record = directory.path().join("unhealthy");
        Servers {
            users: BTreeMap::new(),
            unhealthy: BTreeMap::new(),
            remembered: remembered(&record),
            record,
        }
    }

    fn report(check: &ServerCheck, health: Health) -> Report {
        Report {
            target: target(check),
            health,
            failure: None,
        }
    }

    #[test]
    fn server_of_two_services_is_asked_once_and_leaves_both() {
        let directory = tempfile::tempdir().unwrap();
        let mut servers = servers(&directory);
        let checks = [
            check(1, "lvs/web:80", 1, 80),
            check(2, "lvs/api:80", 1, 80),
            check(3, "lvs/web:80", 2, 80),
        ];
        assert_eq!(servers.set(checks.to_vec()).len(), 2);
        let told = RefCell::new(Vec::new());
        let tell = |event: Event| told.borrow_mut().push((event.name, event.reason));
        servers.take(report(&checks[0], Health::Unhealthy), &tell);
        assert_eq!(
            servers.unhealthy_backends(),
            [BackendId(1), BackendId(2)].into()
        );
        let expected = [("api", "ServerUnhealthy"), ("web", "ServerUnhealthy")];
        let expected = expected.map(|(name, reason)| (name.to_owned(), reason.to_owned()));
        assert_eq!(told.take(), expected);
        servers.take(report(&checks[0], Health::Healthy), &tell);
        assert!(servers.unhealthy_backends().is_empty());
    }

    #[test]
    fn what_is_known_of_a_server_outlives_other_ids_and_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let mut servers = servers(&directory);
        let first = check(1, "lvs/web:80", 1, 80);
        servers.set(vec![first.clone()]);
        servers.take(report(&first, Health::Unhealthy), &|_| {});
        servers.remember();
        let again = check(7, "lvs/renamed:80", 1, 80);
        servers.set(vec![again.clone()]);
        assert_eq!(servers.unhealthy_backends(), [BackendId(7)].into());

        let mut next = self::servers(&directory);
        let health = next.set(vec![again.clone(), check(8, "lvs/renamed:80", 2, 80)]);
        assert_eq!(health[&target(&again)], Health::Unhealthy);
        assert_eq!(next.unhealthy_backends(), [BackendId(7)].into());
        next.set(vec![]);
        assert!(next.unhealthy.is_empty(), "nobody asks any more");
    }
}
