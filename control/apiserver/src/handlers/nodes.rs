use fairlead_api::{NodeName, status::Status};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::log::relay;
use crate::{
    api::Api,
    request::Request,
    response::{self, Response},
};

/// `/fairlead/v1/status`: how far each node is behind what it should hold.
pub(crate) async fn status(api: &Api) -> Result<Response, Status> {
    api.require_leader()?;
    Ok(response::json_value(
        StatusCode::OK,
        &api.nodes.status().await,
    ))
}

/// `/fairlead/v1/nodes/<node>/<view>`: what a node's dataplane says about itself.
pub(crate) async fn view(
    api: &Api,
    request: &Request,
    node: &str,
    view: &str,
) -> Result<Response, Status> {
    api.require_leader()?;
    let params: Map<String, Value> = request
        .query
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let query = json!({ "view": view, "params": params });
    let pieces = api.nodes.open(&NodeName::new(node), "query", query).await?;
    relay("application/json", pieces, api.stopping.clone()).await
}
