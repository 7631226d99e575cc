//! Named steps on one cluster.

use std::time::Instant;

use anyhow::Result;
use testbed::cluster::{Cluster, Remains, Spec, TestCluster};
use testbed::{Workspace, skip_without_root};

/// One thing that is tested: what must hold, and how it is checked.
pub struct Step {
    /// The condition and the outcome, as a sentence.
    pub name: &'static str,
    /// Checks it.
    pub check: fn(&mut Cluster) -> Result<()>,
}

/// A cluster and the steps on it.
pub struct Scenario {
    spec: Spec,
    steps: &'static [Step],
}

impl Scenario {
    /// A scenario on a cluster of this shape.
    pub fn new(spec: Spec, steps: &'static [Step]) -> Self {
        Self { spec, steps }
    }

    /// Starts the cluster, runs all steps, removes the cluster, and sees that nothing is left.
    ///
    /// # Panics
    /// A step failed, or something is left: the message names every one.
    pub fn run(self) {
        if skip_without_root() {
            return;
        }
        let workspace = Workspace::locate().expect("find the workspace");
        let layout = Cluster::layout_of(&workspace, &self.spec.name).expect("lay the cluster out");
        let mut cluster = TestCluster::up(self.spec).expect("start the cluster");
        let mut failures = Vec::new();
        for step in self.steps {
            let started = Instant::now();
            let outcome = (step.check)(&mut cluster);
            let seconds = started.elapsed().as_secs_f32();
            match outcome {
                Ok(()) => println!("ok     {} ({seconds:.1} s)", step.name),
                Err(error) => {
                    println!("FAILED {} ({seconds:.1} s): {error:#}", step.name);
                    failures.push(format!("{}: {error:#}", step.name));
                }
            }
        }
        // While the cluster still lives, so that its logs are kept.
        assert!(
            failures.is_empty(),
            "{} of {} steps failed:\n\n{}",
            failures.len(),
            self.steps.len(),
            failures.join("\n\n")
        );
        cluster.down().expect("remove the cluster");
        let left = Remains::of(&layout);
        assert!(
            left.is_empty(),
            "after down there is still {left}: {left:#?}"
        );
        println!("ok     down leaves nothing");
    }
}
