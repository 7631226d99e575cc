//! Where the project's files are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The project's work tree, its target folder and the binaries built there.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
    binaries: PathBuf,
}

impl Workspace {
    /// The workspace this program was built in; its binaries are the ones beside this program.
    ///
    /// # Errors
    /// The running program's own path cannot be read.
    pub fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .expect("tests/testbed is two folders below the root")
            .to_owned();
        let program = std::env::current_exe().context("find the running program's path")?;
        let mut binaries = program
            .parent()
            .expect("a program is in a folder")
            .to_owned();
        // Test programs are in target/debug/deps, the binaries in target/debug.
        if binaries.ends_with("deps") {
            binaries.pop();
        }
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |folder| root.join(folder));
        Ok(Self {
            root,
            target,
            binaries,
        })
    }

    /// The folder of the workspace's Cargo.toml.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The folder of the programs that `cargo xtask setup` installs for this project alone.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools/bin")
    }

    /// The folder that holds one folder for each cluster.
    pub fn clusters(&self) -> PathBuf {
        self.target.join("cluster")
    }

    /// The packed image of the example application.
    pub fn hello_image(&self) -> PathBuf {
        self.target.join("images/hello.tar")
    }

    /// The example application as a static program.
    pub fn hello_program(&self) -> PathBuf {
        self.target.join("images/hello")
    }

    /// The same workspace with the binaries of another profile: `debug`, `release`.
    pub fn with_profile(mut self, profile: &str) -> Self {
        self.binaries = self.target.join(profile);
        self
    }

    /// The folder of the project's binaries.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// The path of one of the project's binaries.
    ///
    /// # Errors
    /// It has not been built.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.binaries.join(name);
        ensure!(
            path.exists(),
            "{} is not built: run `cargo xtask build`",
            path.display()
        );
        Ok(path)
    }
}
