//! How many pods a Deployment may have too many, or too few, while it changes.

use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::util::intstr::IntOrString};

/// `spec.replicas`, 1 when unset.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

/// Whether old pods go before new ones come.
pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// How many pods above `replicas` a rolling update may run.
pub(super) fn surge_max(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) {
        0
    } else {
        fence_posts(deployment).0
    }
}

/// How many pods below `replicas` may be available during a rolling update.
pub(super) fn unavailable_max(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) || replicas(deployment) == 0 {
        return 0;
    }
    fence_posts(deployment).1.min(replicas(deployment))
}

/// Surge rounds up, unavailability down; were both zero nothing could ever move, so one pod may be
/// unavailable then.
fn fence_posts(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment
        .spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.clone())
        .unwrap_or_default();
    let quarter = || IntOrString::String("25%".to_owned());
    let replicas = replicas(deployment);
    let surge = scaled(
        &rolling.max_surge.unwrap_or_else(quarter),
        replicas,
        Round::Up,
    );
    let unavailable = scaled(
        &rolling.max_unavailable.unwrap_or_else(quarter),
        replicas,
        Round::Down,
    );
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

#[derive(Clone, Copy)]
enum Round {
    Up,
    Down,
}

/// A number, or a percentage of `of`. What is neither was refused when the object was written.
fn scaled(value: &IntOrString, of: i32, round: Round) -> i32 {
    let percent = match value {
        IntOrString::Int(number) => return (*number).max(0),
        IntOrString::String(text) => text
            .strip_suffix('%')
            .and_then(|text| text.parse::<i64>().ok()),
    };
    let product = percent.unwrap_or(0).max(0) * i64::from(of);
    let scaled = match round {
        Round::Up => (product + 99) / 100,
        Round::Down => product / 100,
    };
    i32::try_from(scaled).unwrap_or(i32::MAX)
}
