use std::time::Duration;

use http::StatusCode;
use tokio::time::timeout;

use crate::{
    api::Api,
    response::{self, Response},
};

/// How long a ready member may take to confirm that it can serve a fresh read.
const READY_WAIT: Duration = Duration::from_secs(2);

/// `/healthz` and `/livez`: that the server answers at all.
pub(crate) fn live() -> Response {
    response::text(StatusCode::OK, "ok")
}

/// `/readyz`: that the store has a leader and this member can read what it has committed.
pub(crate) async fn ready(api: &Api) -> Response {
    match timeout(READY_WAIT, api.latest()).await {
        Ok(Ok(_)) => response::text(StatusCode::OK, "ok"),
        Ok(Err(status)) => failed(&status.message),
        Err(_elapsed) => failed("the store did not answer in time"),
    }
}

fn failed(reason: &str) -> Response {
    response::text(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("[-]store failed: {reason}\nreadyz check failed\n"),
    )
}
