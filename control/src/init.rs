//! `fairlead-control init`: a new cluster.

use anyhow::bail;
use fairlead_api::FamilyRanges;
use ipnetwork::IpNetwork;
use uuid::Uuid;

use crate::{
    Init,
    certificates::Authorities,
    config::{API_PORT, Cluster, Config, Layout, Member},
};

pub(crate) fn init(init: Init) -> anyhow::Result<()> {
    let Init {
        member,
        cluster_cidr,
        service_cidr,
        vip_pools,
    } = init;
    check_ranges(cluster_cidr, service_cidr, &vip_pools)?;
    let layout = Layout::new(&member.data_dir.data_dir);
    layout.create()?;
    let config = Config {
        cluster: Cluster {
            id: Uuid::new_v4().to_string(),
            cluster_cidr,
            service_cidr,
            vip_pools,
            hash_seed: Uuid::new_v4().simple().to_string(),
        },
        member: Member {
            name: member.name,
            id: new_member_id(),
            advertise: member.advertise,
            join_through: None,
        },
    };
    let authorities = Authorities::generate()?;
    authorities.write(&layout, &config)?;
    let kubeconfig_path = layout.admin_kubeconfig();
    let server = format!("https://{}", config.member.listen(API_PORT));
    authorities.write_admin(&kubeconfig_path, &server)?;
    layout.save_config(&config)?;
    eprintln!(
        "The cluster {} is made. Start its first member:\n\
         \x20   fairlead-control run --data-dir {}\n\
         and use it with:\n\
         \x20   export KUBECONFIG={}",
        config.cluster.id,
        member.data_dir.data_dir.display(),
        kubeconfig_path.display(),
    );
    Ok(())
}

/// A member id that no other member has or had: 53 random bits, so that JSON keeps it exact.
pub(crate) fn new_member_id() -> u64 {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    (high >> 11).max(1)
}

fn check_ranges(
    cluster_cidr: FamilyRanges,
    service_cidr: FamilyRanges,
    vip_pools: &[IpNetwork],
) -> anyhow::Result<()> {
    let families = |ranges: FamilyRanges| ranges.iter().map(|range| range.is_ipv4());
    if !families(cluster_cidr).eq(families(service_cidr)) {
        bail!(
            "--service-cidr {service_cidr}: must be of the same families in the same order as \
             --cluster-cidr {cluster_cidr}"
        );
    }
    let cluster = cluster_cidr.iter().map(|range| ("--cluster-cidr", range));
    let service = service_cidr.iter().map(|range| ("--service-cidr", range));
    let pools = vip_pools.iter().map(|pool| ("--vip-pool", *pool));
    let ranges: Vec<_> = cluster.chain(service).chain(pools).collect();
    for (index, (flag, range)) in ranges.iter().enumerate() {
        if range.network() != range.ip() {
            bail!(
                "{flag} {range}: host bits are set; did you mean {}/{}?",
                range.network(),
                range.prefix()
            );
        }
        for (other_flag, other) in &ranges[..index] {
            if overlaps(*range, *other) {
                bail!("{flag} {range} overlaps {other_flag} {other}");
            }
        }
    }
    for range in cluster_cidr.iter() {
        let node = fairlead_controllers::node_prefix(range);
        if range.prefix() > node {
            bail!(
                "--cluster-cidr {range}: must be /{node} or larger, as each node gets a /{node} of it"
            );
        }
    }
    Ok(())
}

fn overlaps(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_cannot_work_are_refused_by_flag() {
        let check = |cluster: &str, service: &str, pool: &str| {
            check_ranges(
                cluster.parse().unwrap(),
                service.parse().unwrap(),
                &[pool.parse().unwrap()],
            )
            .map_err(|error| error.to_string())
        };
        for (cluster, service) in [
            ("10.244.0.0/16", "10.96.0.0/16"),
            ("2001:db8:a::/56", "2001:db8:b::/112"),
            (
                "10.244.0.0/16,2001:db8:a::/56",
                "10.96.0.0/16,2001:db8:b::/112",
            ),
        ] {
            assert_eq!(check(cluster, service, "198.18.100.0/24"), Ok(()));
        }
        for (cluster, service, pool, expected) in [
            (
                "10.244.0.0/16",
                "10.244.8.0/24",
                "198.18.100.0/24",
                "--service-cidr 10.244.8.0/24",
            ),
            (
                "10.244.0.0/16",
                "10.96.0.0/16",
                "10.96.1.0/24",
                "--vip-pool 10.96.1.0/24 overlaps",
            ),
            (
                "10.244.0.0/16",
                "10.96.0.0/16",
                "198.18.100.1/24",
                "--vip-pool 198.18.100.1/24: host bits are set; did you mean 198.18.100.0/24",
            ),
            (
                "10.244.0.0/25",
                "10.96.0.0/16",
                "198.18.100.0/24",
                "/24 or larger",
            ),
            (
                "10.244.0.0/16,2001:db8:a::/72",
                "10.96.0.0/16,2001:db8:b::/112",
                "198.18.100.0/24",
                "/64 or larger",
            ),
            (
                "10.244.0.0/16,2001:db8:a::/56",
                "10.96.0.0/16",
                "198.18.100.0/24",
                "same families",
            ),
            (
                "2001:db8:a::/56,10.244.0.0/16",
                "2001:db8:a:12::/112,10.96.0.0/16",
                "198.18.100.0/24",
                "--service-cidr 2001:db8:a:12::/112 overlaps --cluster-cidr 2001:db8:a::/56",
            ),
        ] {
            let error = check(cluster, service, pool).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn member_ids_fit_json_numbers() {
        for _ in 0..1000 {
            let id = new_member_id();
            assert!(id > 0 && id < 1 << 53);
        }
    }
}
