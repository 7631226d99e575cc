//! What other nodes have counted, on its way to the schedulers.

use fairlead_dataplane_common::LoadEntry;

use super::*;

/// Connections elsewhere and weight of the backend with this id, as the maps hold them.
fn load(dataplane: &Dataplane, backend: u32) -> Option<(u32, u32)> {
    let state = dataplane.state();
    let tables = &state.loaded.tables;
    let slot = tables.backend_ids.get(&backend, 0).ok()?;
    let load = tables.loads.get(slot).unwrap();
    Some((load.elsewhere, load.weight))
}

/// Connections elsewhere of the backend with this id, as the view shows them.
fn shown(dataplane: &Dataplane, backend: u32) -> Value {
    let backends = rows(dataplane, "backends");
    let row = backends.iter().find(|row| row["id"] == backend).unwrap();
    row["connectionsElsewhere"].clone()
}

fn least_loaded() -> DataplaneState {
    let mut state = state();
    state.services[0].scheduler = "wlc".to_owned();
    state
}

#[test]
fn loads_elsewhere_reach_the_maps_and_stay_through_what_comes_after() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        let apply = async |state: &DataplaneState, generation| {
            let applied = dataplane.apply(whole(state), Generation(generation)).await;
            applied.unwrap();
            dataplane.settle().await.unwrap();
        };
        let tell = async |loads: &[(u32, u32)]| {
            let loads = loads.iter().map(|(id, load)| (BackendId(*id), *load));
            let told = dataplane.set_loads_elsewhere(loads.collect()).await;
            told.unwrap();
        };
        // What is known before its backend is waits for it.
        tell(&[(13, 9)]).await;
        apply(&least_loaded(), 5).await;
        assert_eq!(load(&dataplane, 11), Some((0, 1)));
        assert_eq!(load(&dataplane, 13), Some((9, 1)));

        // 21 is of a service that counts nothing, and nobody has 99.
        tell(&[(11, 5), (12, 7), (21, 3), (99, 1)]).await;
        assert_eq!(load(&dataplane, 11), Some((5, 1)));
        assert_eq!(load(&dataplane, 12), Some((7, 1)));
        assert_eq!(load(&dataplane, 13), Some((9, 1)), "not named: as before");
        assert_eq!(load(&dataplane, 21), Some((0, 0)));
        assert_eq!(shown(&dataplane, 11), 5);
        assert_eq!(shown(&dataplane, 21), Value::Null);
        tell(&[(12, 0)]).await;
        assert_eq!(load(&dataplane, 12), Some((0, 1)));

        // A map that lost it gets it back.
        let slot = {
            let mut state = dataplane.state();
            let tables = &mut state.loaded.tables;
            let slot = tables.backend_ids.get(&11, 0).unwrap();
            let held = tables.loads.get(slot).unwrap();
            let lost = LoadEntry {
                elsewhere: 0,
                ..held
            };
            tables.loads.set(slot, lost).unwrap();
            slot
        };
        dataplane.state().resync().unwrap();
        assert_eq!(load(&dataplane, 11), Some((5, 1)), "slot {slot}");

        // Another backend in its place begins with nothing.
        let mut replaced = least_loaded();
        replaced.services[0].backends[0].id = 14;
        apply(&replaced, 6).await;
        assert_eq!(load(&dataplane, 11), None);
        assert_eq!(load(&dataplane, 14), Some((0, 1)));
        let held = dataplane.state().loaded.tables.loads.get(slot).unwrap();
        assert!(held.elsewhere == 0, "nothing is left of it: {held:?}");
        tell(&[(14, 2)]).await;
        assert_eq!(load(&dataplane, 14), Some((2, 1)));
    });
}
