//! `fairlead-control join`: one member more.

use anyhow::{Context, bail};
use fairlead_pki::{Authority, JoinToken};

use crate::{
    Join,
    certificates::Authorities,
    config::{API_PORT, Config, Layout, Member},
    enrollment::MemberBundle,
    init::new_member_id,
};

pub(crate) async fn join(join: Join) -> anyhow::Result<()> {
    let layout = Layout::new(&join.member.data_dir.data_dir);
    layout.create()?;
    let token: JoinToken = join.token.parse().context("--token")?;
    let response = fairlead_client::join(&join.server, &token, &join.member.name, "").await?;
    if response.member_bundle_json.is_empty() {
        bail!(
            "the token is for a node: make one with `fairlead-control token create --role control`"
        );
    }
    let bundle: MemberBundle = serde_json::from_slice(&response.member_bundle_json)
        .context("the answer of the control plane cannot be read: is it of another version?")?;
    let config = Config {
        cluster: bundle.cluster,
        member: Member {
            name: join.member.name,
            id: new_member_id(),
            advertise: join.member.advertise,
            join_through: Some(bundle.peer_endpoint),
        },
    };
    let authorities = Authorities {
        cluster: Authority::load(&bundle.ca_pem, &bundle.ca_key)?,
        peers: Authority::load(&bundle.peer_ca_pem, &bundle.peer_ca_key)?,
    };
    authorities.write(&layout, &config)?;
    let server = format!("https://{}", config.member.listen(API_PORT));
    authorities.write_admin(&layout.admin_kubeconfig(), &server)?;
    layout.save_config(&config)?;
    eprintln!(
        "This host is a member of cluster {}. Start it:\n    fairlead-control run --data-dir {}",
        config.cluster.id,
        join.member.data_dir.data_dir.display(),
    );
    Ok(())
}
