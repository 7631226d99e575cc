//! The resolver's configuration of a machine, as resolv.conf(5) has it.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// What systemd-resolved writes for those who cannot ask its own address, 127.0.0.53.
const UPSTREAM_FILE: &str = "/run/systemd/resolve/resolv.conf";

/// Whom to ask for names, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Who is asked, the first first.
    pub nameservers: Vec<IpAddr>,
    /// What short names are completed with.
    pub searches: Vec<String>,
    /// Words such as `ndots:5`.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// What a text says. What resolvers do not understand they ignore, and so does this: comments,
    /// unknown words, addresses with a scope.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or_default();
            let words = words.map(str::to_owned);
            match keyword {
                "nameserver" => found
                    .nameservers
                    .extend(words.take(1).filter_map(|word| word.parse::<IpAddr>().ok())),
                // The last of them counts.
                "search" => found.searches = words.collect(),
                "domain" => found.searches = words.take(1).collect(),
                "options" => found.options.extend(words),
                _ => {}
            }
        }
        found
    }

    /// What a file says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(path)?))
    }

    /// The file to read for others than this machine's own processes, where `path` is read for
    /// those: a resolver at a loopback address is out of a pod's reach.
    pub fn for_others(path: &Path) -> PathBuf {
        let upstream = Path::new(UPSTREAM_FILE);
        let is_local = Self::read(path).is_ok_and(|found| {
            let mut servers = found.nameservers.iter();
            !found.nameservers.is_empty() && servers.all(IpAddr::is_loopback)
        });
        if is_local && upstream.exists() {
            upstream.to_owned()
        } else {
            path.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_search_counts_and_options_add_up() {
        let found = ResolvConf::parse(
            "# comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n\
             search a.example\ndomain b.example\nsearch c.example d.example\n\
             options ndots:2\noptions edns0 timeout:1\nsortlist 192.0.2.0\n",
        );
        let expected = ResolvConf {
            nameservers: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            searches: vec!["c.example".to_owned(), "d.example".to_owned()],
            options: ["ndots:2", "edns0", "timeout:1"].map(str::to_owned).into(),
        };
        assert_eq!(found, expected);
    }
}
