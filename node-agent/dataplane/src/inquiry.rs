//! What those who look after backends ask of the state in force: whom to check, and who is here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_api::BackendId;

use crate::desired::{Desired, HealthCheck, Place, Service};

/// A backend outside the cluster whose health is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCheck {
    /// Its id.
    pub backend: BackendId,
    /// What its service is called, "namespace/name:port".
    pub service: String,
    /// Where it is.
    pub address: IpAddr,
    /// The port to ask at.
    pub port: u16,
    /// How.
    pub check: HealthCheck,
}

/// How many backends of a service are here, for who wants to know at its health-check port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalBackends {
    /// "namespace/name".
    pub service: String,
    /// Machines and pods that take new connections, each counted once for all ports.
    pub count: usize,
}

/// All backends outside the cluster that have a check.
pub(crate) fn server_checks(desired: &Desired) -> Vec<ServerCheck> {
    let mut checks = Vec::new();
    for service in desired.services.values() {
        let Some(check) = &service.health_check else {
            continue;
        };
        let outside = service.backends.iter();
        checks.extend(outside.filter(|(_, backend)| backend.is_outside()).map(
            |(&backend, server)| ServerCheck {
                backend,
                service: service.name.clone(),
                address: server.address,
                port: check.port.unwrap_or(server.port),
                check: check.clone(),
            },
        ));
    }
    checks
}

/// The health-check ports, and what is to be said there.
pub(crate) fn local_backends(desired: &Desired) -> BTreeMap<u16, LocalBackends> {
    let mut here: BTreeMap<u16, (&str, BTreeSet<IpAddr>)> = BTreeMap::new();
    for service in desired.services.values() {
        let Some(port) = service.health_check_node_port else {
            continue;
        };
        let (_, addresses) = here
            .entry(port)
            .or_insert_with(|| (object_name(service), BTreeSet::new()));
        let picked = service.backends.values();
        addresses.extend(
            picked
                .filter(|backend| !backend.draining)
                .filter(|backend| matches!(desired.place(backend), Place::Here))
                .map(|backend| backend.address),
        );
    }
    let counted = here.into_iter().map(|(port, (service, addresses))| {
        let service = service.to_owned();
        let count = addresses.len();
        (port, LocalBackends { service, count })
    });
    counted.collect()
}

/// The name without the port's.
fn object_name(service: &Service) -> &str {
    let name = service.name.as_str();
    name.split_once(':').map_or(name, |(object, _)| object)
}

#[cfg(test)]
mod tests {
    use fairlead_proto::node::{BackendState, DataplaneState};

    use super::*;
    use crate::changes::Changes;
    use crate::examples::{health_check, own, service, state};

    fn desired(state: DataplaneState) -> Desired {
        let whole = Changes::whole(state);
        Desired::default().advance(&whole, &own()).unwrap().0
    }

    #[test]
    fn backends_outside_are_checked_and_pods_are_not() {
        let mut state = state();
        let checked = &mut state.services[0];
        checked.health_check = Some(health_check());
        checked.backends[1].node = String::new();
        let server = checked.backends[1].clone();
        let found = server_checks(&desired(state.clone()));
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].backend, found[0].port),
            (BackendId(server.id), 8080)
        );
        assert_eq!(found[0].service, "demo/hello:http");
        state.services[0].health_check.as_mut().unwrap().port = 9000;
        assert_eq!(server_checks(&desired(state))[0].port, 9000);
    }

    #[test]
    fn pods_here_are_counted_once_for_all_ports_of_a_service() {
        let mut state = state();
        state.services[0].health_check_node_port = 30_000;
        let mut https = state.services[0].clone();
        https.id = 3;
        https.port_name = "https".to_owned();
        for frontend in &mut https.frontends {
            frontend.port = 443;
        }
        for backend in &mut https.backends {
            backend.id += 1000;
        }
        state.services.push(https);
        state
            .services
            .push(service(4, "other", [10, 96, 0, 4], None));
        let told = |state: &DataplaneState| local_backends(&desired(state.clone()));
        let expected = LocalBackends {
            service: "demo/hello".to_owned(),
            count: 1,
        };
        assert_eq!(told(&state), BTreeMap::from([(30_000, expected)]));
        for index in [0, 2] {
            state.services[index].backends[0].state = BackendState::Draining.into();
        }
        assert_eq!(told(&state)[&30_000].count, 0);
    }
}
