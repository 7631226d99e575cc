use serde_json::{Value, json};

use super::{super::history::MAX_REPLICAS, *};

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn deployment(replicas: i32, image: &str, more: Value) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "d", "generation": 2},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "progressDeadlineSeconds": 600,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    });
    for (key, field) in more.as_object().unwrap() {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).unwrap()
}

/// A set of `size` pods of which `available` are; `desired` is what it was last sized for.
fn set(
    image: &str,
    revision: i64,
    size: i32,
    available: i32,
    desired: i32,
    surge: i32,
) -> ReplicaSet {
    let mut set = make(&deployment(desired, image, json!({})), None, revision);
    set.metadata.uid = Some(format!("uid-{image}"));
    set.metadata.generation = Some(1);
    set.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        Timestamp::from_second(revision).unwrap(),
    ));
    set.spec.replicas = Some(size);
    let annotations = set.metadata.annotations.as_mut().unwrap();
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), (desired + surge).to_string());
    set.status = Some(
        serde_json::from_value(json!({
            "replicas": size, "readyReplicas": available, "availableReplicas": available,
            "observedGeneration": 1,
        }))
        .unwrap(),
    );
    set
}

fn observed(sets: impl IntoIterator<Item = ReplicaSet>) -> Observed {
    Observed {
        sets: sets.into_iter().collect(),
        with_pods: HashSet::new(),
    }
}

/// The sizes the plan gives, by image.
fn sizes(plan: &Plan) -> BTreeMap<String, i32> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Create(set) => {
                let spec = &set.spec;
                let image = spec
                    .template
                    .as_ref()
                    .unwrap()
                    .spec
                    .as_ref()
                    .unwrap()
                    .containers[0]
                    .image
                    .clone();
                Some((image.unwrap(), spec.replicas.unwrap()))
            }
            Action::Update { uid, replicas, .. } => {
                Some((uid.trim_start_matches("uid-").to_owned(), *replicas))
            }
            _ => None,
        })
        .collect()
}

fn status(plan: &Plan) -> DeploymentStatus {
    plan.actions
        .iter()
        .find_map(|action| match action {
            Action::Status(status) => Some((**status).clone()),
            _ => None,
        })
        .expect("the plan writes a status")
}

fn reason(plan: &Plan, kind: &str) -> String {
    let conditions = status(plan).conditions.unwrap_or_default();
    let found = conditions
        .into_iter()
        .find(|condition| condition.type_.as_deref() == Some(kind));
    found
        .and_then(|condition| condition.reason)
        .unwrap_or_default()
}

#[test]
fn new_deployment_gets_a_set_of_full_size_and_revision_one() {
    let plan = plan(&deployment(3, "v1", json!({})), &observed([]), now());
    assert_eq!(sizes(&plan), BTreeMap::from([("v1".to_owned(), 3)]));
    assert!(plan.actions.contains(&Action::Annotate {
        key: REVISION.to_owned(),
        value: "1".to_owned()
    }));
    assert!(plan.again.is_some(), "the deadline is looked at again");
    let Some(Action::Create(set)) = plan.actions.iter().find(|a| matches!(a, Action::Create(_)))
    else {
        panic!("no set is made: {plan:?}")
    };
    let hash = &set.metadata.labels.as_ref().unwrap()[HASH_LABEL];
    assert_eq!(set.metadata.name.as_ref().unwrap(), &format!("web-{hash}"));
    assert_eq!(
        set.spec.selector.match_labels.as_ref().unwrap()[HASH_LABEL],
        *hash
    );
}

#[test]
fn rolling_update_moves_within_surge_and_unavailability() {
    let rolling = |surge: Value, unavailable: Value| json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}});
    // (what happens, strategy, desired, old size/available, new size/available, expected sizes)
    let table = [
        (
            "starts with the surge",
            rolling(json!(1), json!(0)),
            3,
            (3, 3),
            None,
            vec![("v2", 1)],
        ),
        (
            "waits for the new pod",
            rolling(json!(1), json!(0)),
            3,
            (3, 3),
            Some((1, 0)),
            vec![],
        ),
        (
            "swaps one for one",
            rolling(json!(1), json!(0)),
            3,
            (3, 3),
            Some((1, 1)),
            vec![("v1", 2)],
        ),
        (
            "grows into the freed room",
            rolling(json!(1), json!(0)),
            3,
            (2, 2),
            Some((1, 1)),
            vec![("v2", 2)],
        ),
        (
            "takes the unavailable first",
            rolling(json!(1), json!(0)),
            3,
            (3, 2),
            Some((1, 1)),
            vec![("v1", 2)],
        ),
        (
            "uses unavailability at once",
            rolling(json!(0), json!(1)),
            3,
            (3, 3),
            Some((0, 0)),
            vec![("v1", 2)],
        ),
        (
            "finishes",
            rolling(json!(1), json!(0)),
            3,
            (1, 1),
            Some((3, 3)),
            vec![("v1", 0)],
        ),
        (
            "rounds surge up, unavailability down",
            rolling(json!("25%"), json!("25%")),
            3,
            (3, 3),
            None,
            vec![("v2", 1)],
        ),
        (
            "ten at 25%",
            rolling(json!("25%"), json!("25%")),
            10,
            (10, 10),
            Some((3, 0)),
            vec![("v1", 8)],
        ),
    ];
    for (what, strategy, desired, old, new, expected) in table {
        let surge = surge_max(&deployment(desired, "v2", strategy.clone()));
        let mut sets = vec![set("v1", 1, old.0, old.1, desired, surge)];
        sets.extend(new.map(|(size, available)| set("v2", 2, size, available, desired, surge)));
        let plan = plan(&deployment(desired, "v2", strategy), &observed(sets), now());
        let expected = expected
            .into_iter()
            .map(|(image, size)| (image.to_owned(), size))
            .collect();
        assert_eq!(sizes(&plan), expected, "{what}");
    }
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let recreate = json!({"strategy": {"type": "Recreate"}});
    let new = deployment(3, "v2", recreate);
    let shrinks = plan(&new, &observed([set("v1", 1, 3, 3, 3, 0)]), now());
    assert_eq!(sizes(&shrinks), BTreeMap::from([("v1".to_owned(), 0)]));

    let mut waiting = observed([set("v1", 1, 0, 0, 3, 0)]);
    waiting.with_pods.insert("uid-v1".to_owned());
    assert_eq!(sizes(&plan(&new, &waiting, now())), BTreeMap::new());

    let grows = plan(&new, &observed([set("v1", 1, 0, 0, 3, 0)]), now());
    assert_eq!(sizes(&grows), BTreeMap::from([("v2".to_owned(), 3)]));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let rolling = json!({"strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}});
    let sets = [set("v1", 1, 8, 8, 10, 3), set("v2", 2, 5, 0, 10, 3)];
    let plan = plan(&deployment(15, "v2", rolling), &observed(sets), now());
    // The example of upstream's documentation: 10 → 15 with 8 old and 5 new adds 3 and 2.
    assert_eq!(
        sizes(&plan),
        BTreeMap::from([("v1".to_owned(), 11), ("v2".to_owned(), 7)])
    );
}

#[test]
fn paused_deployment_scales_but_does_not_roll() {
    let paused = deployment(5, "v2", json!({"paused": true}));
    let plan = plan(&paused, &observed([set("v1", 1, 3, 3, 3, 1)]), now());
    assert_eq!(sizes(&plan), BTreeMap::from([("v1".to_owned(), 5)]));
    assert_eq!(reason(&plan, "Progressing"), "DeploymentPaused");
}

#[test]
fn rolled_back_template_takes_the_newest_revision_and_remembers_its_old_one() {
    let sets = [set("v1", 1, 0, 0, 3, 1), set("v2", 2, 3, 3, 3, 1)];
    let plan = plan(&deployment(3, "v1", json!({})), &observed(sets), now());
    let Some(Action::Update { annotations, .. }) = plan
        .actions
        .iter()
        .find(|action| matches!(action, Action::Update { uid, .. } if uid == "uid-v1"))
    else {
        panic!("v1 is not touched: {plan:?}")
    };
    assert_eq!(annotations[REVISION], "3");
    assert_eq!(
        annotations["deployment.kubernetes.io/revision-history"],
        "1"
    );
    assert!(plan.actions.contains(&Action::Annotate {
        key: REVISION.to_owned(),
        value: "3".to_owned()
    }));
}

#[test]
fn finished_rollout_reports_complete_and_forgets_sets_beyond_the_limit() {
    let sets = [
        set("v1", 1, 0, 0, 3, 1),
        set("v2", 2, 0, 0, 3, 1),
        set("v3", 3, 3, 3, 3, 1),
    ];
    let done = deployment(3, "v3", json!({"revisionHistoryLimit": 1}));
    let plan = plan(&done, &observed(sets), now());
    assert_eq!(reason(&plan, "Progressing"), "NewReplicaSetAvailable");
    assert_eq!(reason(&plan, "Available"), "MinimumReplicasAvailable");
    assert_eq!(status(&plan).observed_generation, Some(2));
    let deleted: Vec<_> = plan
        .actions
        .iter()
        .filter(|a| matches!(a, Action::Delete { .. }))
        .collect();
    assert!(
        matches!(deleted[..], [Action::Delete { uid, .. }] if uid == "uid-v1"),
        "{deleted:?}"
    );
}

#[test]
fn stalled_rollout_exceeds_its_deadline() {
    let mut stalled = deployment(3, "v2", json!({}));
    stalled.status = Some(
        serde_json::from_value(json!({
            "replicas": 4, "updatedReplicas": 1, "availableReplicas": 3, "readyReplicas": 3,
            "conditions": [{
                "type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
                "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        }))
        .unwrap(),
    );
    let sets = [set("v1", 1, 3, 3, 3, 1), set("v2", 2, 1, 0, 3, 1)];
    let late = "2026-01-01T00:10:01Z".parse().unwrap();
    assert_eq!(
        reason(
            &plan(&stalled, &observed(sets.clone()), late),
            "Progressing"
        ),
        "ProgressDeadlineExceeded"
    );
    let early = "2026-01-01T00:09:59Z".parse().unwrap();
    assert_eq!(
        reason(&plan(&stalled, &observed(sets), early), "Progressing"),
        "ReplicaSetUpdated"
    );
}

#[test]
fn plan_of_what_the_plan_asked_for_is_empty() {
    let mut settled = deployment(3, "v1", json!({}));
    let sets = [set("v1", 1, 3, 3, 3, 1)];
    let first = plan(&settled, &observed(sets.clone()), now());
    settled.status = Some(status(&first));
    settled.metadata.annotations = Some(BTreeMap::from([(REVISION.to_owned(), "1".to_owned())]));
    assert_eq!(plan(&settled, &observed(sets), now()), Plan::default());
}
