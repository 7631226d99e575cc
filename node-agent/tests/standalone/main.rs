//! A balancer without a control plane between a client and two real servers: the real agent, real
//! sockets, hosts made of namespaces. Here its file and what becomes of it; [`modes`] has the ways to the
//! servers.

mod client;
mod modes;
mod prefixes;
mod server;
mod site;
mod tunnel;

use nix::sys::signal::Signal;
use testbed::Deadline;

use self::client::Load;
use self::server::Serving;
use self::site::{Family, PATIENCE, SERVERS, Site, skip};

/// A site whose servers have the VIPs.
fn site() -> Site {
    let site = Site::new();
    site.servers.iter().for_each(|server| server.hold_vips());
    site
}

fn serve(site: &Site) -> [Serving; 2] {
    site.servers.each_ref().map(|server| server.serve(&[80]))
}

/// The service, with these weights of its servers, and what else is said of it.
fn web(weights: [u16; 2], more: &str) -> String {
    let vip = Family::V4.vip();
    let [first, second] = SERVERS;
    format!(
        "- name: web\n  vips: [{vip}]\n  ports: [80]\n  forwarding: dr\n  announce: true\n{more}  \
         backends:\n  - {{address: 198.18.0.{first}, weight: {}}}\n  - {{address: \
         198.18.0.{second}, weight: {}}}\n",
        weights[0], weights[1]
    )
}

const OTHER: &str = "- {name: other, vips: [198.18.0.201], ports: [80, 81], backends: [{address: \
                     198.18.0.21}]}\n";

#[test]
fn reloads_and_restarts_under_load_lose_no_connection() {
    if skip() {
        return;
    }
    let mut site = site();
    let _serving = serve(&site);
    site.write(&web([1, 1], ""));
    site.start();
    site.wait_for_answer();
    let spread = site.spread();
    assert!(spread.iter().all(|count| *count > 20), "{spread:?}");

    let load = Load::start(&site, vec![(Family::V4.vip(), 80).into()], Vec::new());
    for round in 0..5 {
        site.reload(&(web([1, 1], "") + OTHER));
        site.reload(&web([1 + round, 1], "  timeouts: {established: 60s}\n"));
    }
    assert!(load.finish(&site) > 10);

    let load = Load::start(&site, vec![(Family::V4.vip(), 80).into()], Vec::new());
    site.stop(Signal::SIGKILL);
    site.connect().unwrap();
    site.start_and_wait();
    assert!(load.finish(&site) > 10);
    site.stop(Signal::SIGTERM);
    site.connect().unwrap();

    let cleanup = site.launch(&["cleanup", "--standalone"]).command();
    assert!(cleanup.unwrap().output().unwrap().status.success());
    // The kernel detaches programs a moment after their pins have gone.
    let is_gone = || site.connect().is_err();
    let waited = Deadline::after(PATIENCE).until("nothing is left that forwards", is_gone);
    waited.unwrap();
}

#[test]
fn bad_file_is_refused_by_line_and_the_one_before_stays_in_force() {
    if skip() {
        return;
    }
    let mut site = site();
    let _serving = serve(&site);
    site.write(&web([1, 0], ""));
    site.start();
    assert_eq!(site.wait_for_answer(), "server 21");
    site.write(&web([1, 0], "  scheduler: fastest\n"));
    site.wait_for_log(
        "services.yaml:15: services[0].scheduler: unknown variant",
        0,
    );
    site.write(
        &(web([0, 1], "") + "- {name: web, vips: [198.18.0.9], ports: [1], backends: []}\n"),
    );
    site.wait_for_log("another service is called", 0);
    site.write("- {name: [\n");
    site.wait_for_log("services.yaml:10: services: unclosed bracket", 0);
    assert_eq!(site.spread(), [100, 0]);
    assert!(site.agent.unwrap().is_running());
    site.reload(&web([0, 1], ""));
    assert_eq!(site.spread(), [0, 100]);
}

#[test]
fn server_that_does_not_answer_gets_no_connections_until_it_does() {
    if skip() {
        return;
    }
    let mut site = site();
    let health = "  health: {check: tcp, interval: 100ms, timeout: 100ms, rise: 2, fall: 2}\n";
    let _first = site.servers[0].serve(&[80]);
    let second = site.servers[1].serve(&[80]);
    site.write(&web([1, 1], health));
    site.start();
    site.wait_for_answer();
    assert!(site.spread().iter().all(|count| *count > 20));
    drop(second);
    site.wait_for_log("a server does not answer", 0);
    let states = || {
        let rows = site.view("backends");
        let rows = rows.as_array().unwrap().iter();
        let mut states: Vec<(u64, String)> = rows
            .map(|row| (row["slots"].as_u64().unwrap(), row["state"].to_string()))
            .collect();
        states.sort();
        states
    };
    let deadline = Deadline::after(PATIENCE);
    let is_out = || states()[0] == (0, "\"unhealthy\"".to_owned());
    deadline.until("the server is out", is_out).unwrap();
    assert_eq!(site.spread(), [100, 0]);
    // Known to the next agent too.
    site.agent.unwrap().signal(Signal::SIGHUP).unwrap();
    let _second = site.servers[1].serve(&[80]);
    site.wait_for_log("a server answers again", 0);
    deadline
        .until("the server is in", || states()[0].0 > 0)
        .unwrap();
    assert!(site.spread().iter().all(|count| *count > 20));
}
