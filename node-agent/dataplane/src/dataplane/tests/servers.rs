//! Machines outside the cluster, and the uplinks that lead there, as the kernel's tables change.

use super::*;

/// Waits until `holds` of the view's rows.
async fn until_seen(dataplane: &Dataplane, view: &str, holds: impl Fn(&Value) -> bool) {
    let is_seen = async || holds(&dataplane.view(view, &json!({})).unwrap());
    until(&format!("the view of {view}"), is_seen).await;
}

fn with_server(server: [u8; 4]) -> DataplaneState {
    let mut state = state();
    let backend = &mut state.services[0].backends[1];
    backend.address = server.to_vec().into();
    backend.node = String::new();
    state
}

#[test]
fn servers_have_their_own_address_or_that_of_the_router_and_the_mtu_of_the_route() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let (host, peer) = (&fixture.host, &fixture.peer);
    peer.ip("link set eth0 address 02:00:00:00:00:02").unwrap();
    peer.ip("address add 198.18.0.21/24 dev eth0").unwrap();
    peer.ip("address add 192.0.2.21/32 dev lo").unwrap();
    host.ip("route add 192.0.2.0/24 via 198.18.0.102 mtu lock 1400")
        .unwrap();
    let known = |rows: &Value, server: &str, adjacent: bool, mtu: u32| {
        rows.as_array().unwrap().iter().any(|row| {
            row["address"] == server
                && row["isServer"] == true
                && row["mac"] == "02:00:00:00:00:02"
                && row["adjacent"] == adjacent
                && row["mtu"] == mtu
        })
    };
    fixture.open(async |dataplane| {
        let near = whole(&with_server([198, 18, 0, 21]));
        dataplane.apply(near, Generation(5)).await.unwrap();
        until_seen(&dataplane, "nodes", |rows| {
            known(rows, "198.18.0.21", true, 1500)
        })
        .await;
        let far = whole(&with_server([192, 0, 2, 21]));
        dataplane.apply(far, Generation(6)).await.unwrap();
        until_seen(&dataplane, "nodes", |rows| {
            known(rows, "192.0.2.21", false, 1400)
        })
        .await;
        dataplane.settle().await.unwrap();
        let rows = rows(&dataplane, "nodes");
        assert!(rows.iter().all(|row| row["address"] != "198.18.0.21"));
    });
}

#[test]
fn programs_know_an_uplink_by_the_address_and_size_it_has_now() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let host = &fixture.host;
    let like = |mac: &'static str, mtu: u32| {
        move |status: &Value| {
            let uplink = &status["uplinks"][0];
            uplink["mac"] == mac && uplink["mtu"] == mtu
        }
    };
    host.ip("link set eth0 address 02:00:00:00:00:01").unwrap();
    fixture.open(async |dataplane| {
        let status = dataplane.view("status", &json!({})).unwrap();
        assert!(like("02:00:00:00:00:01", 1500)(&status), "{status}");
        host.ip("link set eth0 address 02:00:00:00:00:11 mtu 1400")
            .unwrap();
        until_seen(&dataplane, "status", like("02:00:00:00:00:11", 1400)).await;
    });
}
