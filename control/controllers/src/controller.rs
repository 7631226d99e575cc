use std::{future::Future, sync::Arc, time::Duration};

use fairlead_api::Revision;
use fairlead_objects::{Cache, Change, Informer, ObjectName, Recorder, WriteError, Writer};
use tokio::task::JoinSet;
use tracing::{Instrument, debug, info_span, warn};

use crate::{Config, queue::WorkQueue};

/// What a reconcile reached, and when it wants to be called again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The newest write it made: it is not called again before the cache holds that.
    pub(crate) written: Option<Revision>,
    /// Call again after this long even if nothing changes.
    pub(crate) again: Option<Duration>,
}

impl Outcome {
    /// Notes a write.
    pub(crate) fn wrote(&mut self, revision: Option<Revision>) {
        self.written = self.written.max(revision);
    }

    /// Asks to be called again after `delay`, or earlier if somebody asked for that.
    pub(crate) fn again_after(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |earlier| earlier.min(delay)));
    }
}

/// What all controllers share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) informer: Informer,
    pub(crate) writer: Writer,
    pub(crate) recorder: Recorder,
}

impl Context {
    /// The cluster as it is known now.
    pub(crate) fn cache(&self) -> Cache {
        self.informer.cache()
    }
}

/// One reconcile loop: it names the objects it should look at, and looks at one.
pub(crate) trait Controller: Send + Sync + 'static {
    /// For logs.
    const NAME: &'static str;
    /// How many objects it works on at a time.
    const WORKERS: usize = 2;

    /// The objects to look at after a change.
    fn affected(&self, change: &Change, cache: &Cache) -> Vec<ObjectName>;

    /// Brings one object closer to what it should be.
    fn reconcile(
        &self,
        context: &Context,
        name: &ObjectName,
    ) -> impl Future<Output = Result<Outcome, WriteError>> + Send;
}

/// The single key of a controller that looks at everything at once.
pub(crate) fn everything() -> Vec<ObjectName> {
    vec![ObjectName::default()]
}

/// Hands changes to a controller's queue.
pub(crate) type Route = Box<dyn Fn(&Change, &Cache) + Send + Sync>;

/// Starts a controller's workers and returns the route into its queue.
pub(crate) fn start<C: Controller>(
    controller: C,
    context: &Context,
    tasks: &mut JoinSet<()>,
) -> Route {
    let controller = Arc::new(controller);
    let queue = Arc::new(WorkQueue::new());
    for _ in 0..C::WORKERS {
        tasks.spawn(work(controller.clone(), context.clone(), queue.clone()));
    }
    Box::new(move |change, cache| {
        for name in controller.affected(change, cache) {
            queue.add(name);
        }
    })
}

async fn work<C: Controller>(
    controller: Arc<C>,
    context: Context,
    queue: Arc<WorkQueue<ObjectName>>,
) {
    loop {
        let name = queue.next().await;
        let span = info_span!("reconcile", controller = C::NAME, object = %name);
        async {
            match controller.reconcile(&context, &name).await {
                Ok(outcome) => {
                    queue.forget(&name);
                    if let Some(revision) = outcome.written {
                        context.informer.reached(revision).await;
                    }
                    if let Some(delay) = outcome.again {
                        queue.add_after(name.clone(), delay);
                    }
                }
                // Somebody deleted it, or its namespace is going: the change will say so.
                Err(cause @ (WriteError::Missing(_) | WriteError::NamespaceGone(_))) => {
                    debug!(%cause, "gone while it was worked on");
                    queue.forget(&name);
                }
                Err(cause) => {
                    warn!(
                        error = &cause as &dyn std::error::Error,
                        "failed; trying again"
                    );
                    queue.add_failed(name.clone());
                }
            }
        }
        .instrument(span)
        .await;
        queue.done(&name);
    }
}
