//! A node to run pods on: private directories, cgroups and network namespaces, gone with it.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::NodeName;
use fairlead_pods::{
    ClusterDns, Config, LogRequest, NetworkError, Objects, PodNetwork, Pods, Report, SHIM_ARGUMENT,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// The image every test pod runs.
pub(crate) const IMAGE: &str = "test/program:1";
const DEADLINE: Duration = Duration::from_secs(30);

/// A node under test.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) pods: Option<Pods>,
    network: Arc<Network>,
    reports: mpsc::Receiver<Report>,
    /// The last status of each pod, by uid; `None` once it is gone.
    statuses: BTreeMap<String, Option<PodStatus>>,
    pub(crate) events: Vec<(&'static str, String)>,
    dir: tempfile::TempDir,
}

/// Runs `test` on a node of its own, in a network namespace of its own; prints a skip without
/// root.
pub(crate) fn on_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F) {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must run these tests as root"
        );
        println!("SKIP: needs root");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { test(Node::start().await).await });
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let unique = dir
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .replace('.', "");
        let unified = fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .lines()
            .find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
            })
            .unwrap();
        let cgroup_prefix = format!("fairlead-test/{unique}");
        let config = Config {
            node_name: NodeName::new("node-1"),
            node_ips: vec![IpAddr::from([127, 0, 0, 1])],
            data_dir: dir.path().join("data"),
            run_dir: dir.path().join("run"),
            log_dir: dir.path().join("log"),
            cgroup_v2: unified.join(&cgroup_prefix),
            cgroup_prefix,
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: 110,
            shim_command: vec![
                env!("CARGO_BIN_EXE_fairlead-pods-shim").into(),
                SHIM_ARGUMENT.into(),
            ],
        };
        let network = Arc::new(Network::default());
        let (sender, reports) = mpsc::channel(1024);
        let pods = Pods::start(config.clone(), network.clone(), sender)
            .await
            .unwrap();
        let statuses = BTreeMap::new();
        Self {
            config,
            pods: Some(pods),
            network,
            reports,
            statuses,
            events: Vec::new(),
            dir,
        }
    }

    /// Stops the agent's part, abruptly, and starts it anew.
    pub(crate) async fn restart_agent(&mut self) {
        self.pods = None;
        let (sender, reports) = mpsc::channel(1024);
        self.reports = reports;
        self.statuses.clear();
        let network = self.network.clone();
        self.pods = Some(
            Pods::start(self.config.clone(), network, sender)
                .await
                .unwrap(),
        );
    }

    /// Lays the test program's image into the node's archive directory.
    pub(crate) fn add_image(&self) {
        let path = self.config.data_dir.join("images/program.tar");
        let temporary = path.with_extension("part");
        fs::write(&temporary, image()).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    pub(crate) async fn assign(&self, pods: &[&Pod]) {
        self.assign_with(pods, Objects::default()).await;
    }

    pub(crate) async fn assign_with(&self, pods: &[&Pod], objects: Objects) {
        let pods = pods.iter().map(|pod| (*pod).clone()).collect();
        self.pods.as_ref().unwrap().assign(pods, objects).await;
    }

    /// Waits until the pod's status satisfies `condition`, and returns it.
    pub(crate) async fn wait_for(
        &mut self,
        pod: &Pod,
        what: &str,
        condition: impl Fn(&PodStatus) -> bool,
    ) -> PodStatus {
        let uid = pod.metadata.uid.clone().unwrap();
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                if let Some(Some(status)) = self.statuses.get(&uid)
                    && condition(status)
                {
                    return status.clone();
                }
                self.receive().await;
            }
        });
        match waited.await {
            Ok(status) => status,
            Err(_) => panic!(
                "{what}: not within {DEADLINE:?}\nstatus: {}\nevents: {:#?}",
                serde_json::to_string_pretty(&self.statuses.get(&uid)).unwrap(),
                self.events
            ),
        }
    }

    pub(crate) async fn wait_until_ready(&mut self, pod: &Pod) -> PodStatus {
        self.wait_for(pod, "ready", |status| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
        .await
    }

    pub(crate) async fn wait_until_gone(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap();
        tokio::time::timeout(DEADLINE, async {
            while self.statuses.get(&uid) != Some(&None) {
                self.receive().await;
            }
        })
        .await
        .expect("the pod is gone within the deadline");
    }

    pub(crate) fn has_event(&self, reason: &str, text: &str) -> bool {
        self.events
            .iter()
            .any(|(known, message)| *known == reason && message.contains(text))
    }

    /// Waits until an Event of this reason with this text has come.
    /// Makes the network hold on to every pod, or let go again.
    pub(crate) fn hold_networks(&self, hold: bool) {
        self.network.refuses.store(hold, Ordering::SeqCst);
    }

    pub(crate) async fn wait_for_event(&mut self, reason: &str, text: &str) {
        tokio::time::timeout(DEADLINE, async {
            while !self.has_event(reason, text) {
                self.receive().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no event {reason} {text:?}"));
    }

    /// Waits until the pod's log is this: a container's output arrives a moment after it.
    pub(crate) async fn wait_for_log(&self, pod: &Pod, expected: &str) {
        tokio::time::timeout(DEADLINE, async {
            while self.logs(pod, |_| {}).await != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("the log never was {expected:?}"));
    }

    pub(crate) async fn logs(&self, pod: &Pod, change: impl FnOnce(&mut LogRequest)) -> String {
        let mut request = LogRequest {
            namespace: pod.metadata.namespace.clone().unwrap(),
            pod: pod.metadata.name.clone().unwrap(),
            uid: pod.metadata.uid.clone().unwrap(),
            ..LogRequest::default()
        };
        change(&mut request);
        let mut receiver = self.pods.as_ref().unwrap().logs(request).await.unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    async fn receive(&mut self) {
        match self.reports.recv().await.expect("the node reports") {
            Report::Status { uid, status, .. } => {
                self.statuses.insert(uid, Some(*status));
            }
            Report::Gone { uid, .. } => {
                self.statuses.insert(uid, None);
            }
            Report::Event(event) => self.events.push((event.reason, event.message)),
        }
    }

    /// The pod's directory below the node's `run_dir`.
    pub(crate) fn run_dir(&self, pod: &Pod) -> PathBuf {
        self.config
            .run_dir
            .join("pods")
            .join(pod.metadata.uid.as_ref().unwrap())
    }

    /// The process of a container run.
    pub(crate) fn pid(&self, pod: &Pod, run: &str) -> i32 {
        let path = self.run_dir(pod).join("containers").join(run).join("pid");
        fs::read_to_string(path).unwrap().parse().unwrap()
    }

    /// The process of the pod's shim.
    pub(crate) fn shim_pid(&self, pod: &Pod) -> i32 {
        let text = fs::read_to_string(self.run_dir(pod).join("shim.pid")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    /// Fails if anything of any pod is left.
    pub(crate) fn assert_nothing_left(&self) {
        for dir in [
            self.config.run_dir.join("pods"),
            self.config.data_dir.join("pods"),
        ] {
            let left: Vec<_> = fs::read_dir(&dir).into_iter().flatten().collect();
            assert!(left.is_empty(), "left in {}: {left:?}", dir.display());
        }
        let here = self.dir.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(here), "mounts are left: {mounts}");
        assert_eq!(
            self.pod_cgroups(),
            Vec::<PathBuf>::new(),
            "cgroups are left"
        );
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            let ours = command.contains(here) && !command.contains("nextest");
            assert!(!ours, "a process is left: {command}");
        }
    }

    fn pod_cgroups(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|target| target.starts_with("/sys/fs/cgroup"))
            .map(|target| Path::new(target).join(&self.config.cgroup_prefix))
            .filter_map(|node| fs::read_dir(node).ok())
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("pod")
            })
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.pods = None;
        let config = self.config.clone();
        let network = self.network.clone();
        // Drop cannot wait in the test's own runtime.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime
                .block_on(Pods::destroy(&config, &*network))
                .map_err(|error| error.to_string())
        })
        .join();
        let _ = fs::remove_dir(&self.config.cgroup_v2);
        let _ = self.config.cgroup_v2.parent().map(fs::remove_dir);
        if !std::thread::panicking() {
            cleaned.unwrap().unwrap();
        }
    }
}

/// Gives each pod a namespace and a veth to the test's own.
#[derive(Default)]
struct Network {
    last: AtomicU8,
    addresses: Mutex<BTreeMap<String, IpAddr>>,
    /// Whether it lets go of no pod.
    refuses: AtomicBool,
}

#[async_trait]
impl PodNetwork for Network {
    async fn attach(&self, uid: &str, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        if let Some(address) = self.addresses.lock().unwrap().get(uid) {
            return Ok(vec![*address]);
        }
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        let here = nix::unistd::gettid();
        fs::File::create(netns).unwrap();
        let path = netns.to_owned();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let source = Some("/proc/thread-self/ns/net");
            mount(source, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            ip("link set lo up");
            ip(&format!(
                "link add eth0 type veth peer name pod{number} netns {here}"
            ));
            ip(&format!("addr add 10.77.{number}.2/24 dev eth0"));
            ip("link set eth0 up");
        })
        .join()
        .unwrap();
        ip(&format!("addr add 10.77.{number}.1/24 dev pod{number}"));
        ip(&format!("link set pod{number} up"));
        let address = IpAddr::from([10, 77, number, 2]);
        self.addresses
            .lock()
            .unwrap()
            .insert(uid.to_owned(), address);
        Ok(vec![address])
    }

    async fn detach(&self, uid: &str, netns: &Path) -> Result<(), NetworkError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(NetworkError("it is busy".to_owned()));
        }
        self.addresses.lock().unwrap().remove(uid);
        let _ = umount2(netns, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(netns);
        Ok(())
    }

    fn dns(&self) -> Option<ClusterDns> {
        None
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// A pod named `name` with this spec.
pub(crate) fn pod(name: &str, spec: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("{name}-uid")},
        "spec": spec,
    }))
    .unwrap();
    let spec = pod.spec.as_mut().unwrap();
    spec.termination_grace_period_seconds.get_or_insert(2);
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        container.image.get_or_insert(IMAGE.to_owned());
    }
    pod
}

/// The status of a pod's first container.
pub(crate) fn container(status: &PodStatus) -> &ContainerStatus {
    &status.container_statuses.as_ref().unwrap()[0]
}

/// The reason a pod's first container waits for, if it does.
pub(crate) fn waiting(status: &PodStatus) -> Option<&str> {
    container(status)
        .state
        .as_ref()?
        .waiting
        .as_ref()?
        .reason
        .as_deref()
}

/// The static program of `tests/programs/container.rs`, compiled once.
fn program() -> Vec<u8> {
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = shared.join("test-program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/container.rs");
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let fresh = modified(&path).is_ok_and(|built| built > modified(&source).unwrap());
    if !fresh {
        // In a directory of its own: tests are processes, and rustc's intermediate files clash.
        let dir = tempfile::tempdir_in(shared).unwrap();
        let built = dir.path().join("program");
        let status = Command::new("rustc")
            .args([
                "--edition",
                "2024",
                "-O",
                "-C",
                "target-feature=+crt-static",
            ])
            .args(["--target", "x86_64-unknown-linux-gnu", "-o"])
            .arg(&built)
            .arg(&source)
            .status()
            .unwrap();
        assert!(status.success());
        fs::rename(&built, &path).unwrap();
    }
    fs::read(path).unwrap()
}

/// An OCI image layout with two layers: the program, and a second that hides a file of the first.
fn image() -> Vec<u8> {
    let digest = |bytes: &[u8]| -> String {
        Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    let layer = |files: &[(&str, u32, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode, content) in files {
            append(&mut tar, path, *mode, content);
        }
        tar.into_inner().unwrap()
    };
    let program = program();
    let lower = layer(&[("program", 0o755, &program), ("secret", 0o600, b"hidden")]);
    let upper = layer(&[
        (".wh.secret", 0o600, b""),
        ("etc/passwd", 0o644, b"app:x:7:8::/:\n"),
    ]);
    let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    compressed.write_all(&lower).unwrap();
    let compressed = compressed.finish().unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/program"], "Env": ["FROM_IMAGE=yes"]},
        "rootfs": {"type": "layers", "diff_ids": [
            format!("sha256:{}", digest(&lower)), format!("sha256:{}", digest(&upper))]},
    })
    .to_string()
    .into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
               "digest": format!("sha256:{}", digest(bytes)), "size": bytes.len()})
    };
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar+gzip", &compressed),
                   descriptor("layer.v1.tar", &upper)],
    })
    .to_string()
    .into_bytes();
    let mut entry = descriptor("manifest.v1+json", &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    append(
        &mut tar,
        "oci-layout",
        0o644,
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    append(&mut tar, "index.json", 0o644, index.as_bytes());
    for blob in [&config, &manifest, &compressed, &upper] {
        append(
            &mut tar,
            &format!("blobs/sha256/{}", digest(blob)),
            0o644,
            blob,
        );
    }
    tar.into_inner().unwrap()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).unwrap();
}
